"""OAuth and OpenID Connect logins: what is kept between the redirect and the callback."""
