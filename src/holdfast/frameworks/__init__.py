"""What the adapters of several frameworks share; the public ones are modules beside this folder."""
