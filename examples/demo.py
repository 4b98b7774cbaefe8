"""The demo, to be run as ``uvicorn --app-dir examples demo:app``. Read ``holdfast/demo/app.py``."""

from holdfast.demo import create_app

app = create_app()
