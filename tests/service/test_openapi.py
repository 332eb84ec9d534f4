"""The description of the API is valid, and describes what the application has."""

from openapi_spec_validator import OpenAPIV31SpecValidator
from service_kit import segmenter

from jaxseg.service import formats, openapi, pages
from jaxseg.service.app import create_app


def document() -> dict:
    return openapi.document(pages.FILES)


def test_the_document_is_valid_openapi():
    OpenAPIV31SpecValidator(document()).validate()


def test_it_describes_every_address_and_method_and_no_other(tmp_path):
    app = create_app(segmenter(), folder=tmp_path)
    has = {(route.path, method.lower()) for route in app.routes for method in route.methods - {"HEAD"}}
    described = {(path, method) for path, operations in document()["paths"].items() for method in operations}
    assert described == has


def test_it_lists_the_formats_of_a_segmentation():
    answers = document()["paths"]["/v1/segment"]["post"]["responses"]["200"]
    assert list(answers["content"]) == list(formats.SEGMENT)
    assert "Location" in answers["headers"]
