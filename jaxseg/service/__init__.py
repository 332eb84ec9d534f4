"""A service over HTTP: X-rays, masks and volumes in, results out; see `create_app`.

It needs the extra `serve`. Importing this package imports nothing heavy; `create_app` imports the rest.
"""

from typing import Any


def create_app(*predictors: Any, **options: Any) -> Any:
    """Returns the ASGI application; see `jaxseg.service.app.create_app`.

    Raises:
      ValueError: the packages of the extra `serve` are not installed, or an option is out of range.
    """
    require_stack()
    from jaxseg.service import app

    return app.create_app(*predictors, **options)


def require_stack() -> None:
    """Raises a ValueError if a package of the extra `serve` is not installed."""
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(f"the service needs {error.name}: pip install 'jaxseg[serve]'") from None
