"""What schemathesis has to know of hotrow that a description in OpenAPI cannot say."""

import json

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, ServerError
from schemathesis.openapi.checks import AllowHeaderMismatch, MissingContentType, RejectedPositiveData, UseAfterFree


@schemathesis.hook
def before_load_schema(context, raw_schema):
    # The server that is asked has tokens: here they are not a choice.
    raw_schema["security"] = [{"bearer": []}]


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """A text as it is; what is to be no text, as JSON."""
    if isinstance(value, bytes):
        return value
    return value.encode(errors="surrogatepass") if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.hook
def before_call(context, case, kwargs):
    # A row that expires while the requests go on would make the verdict depend on how long they take. What is no time
    # to live stays what it is.
    for place in (case.query, *(case.body if isinstance(case.body, list) else [])):
        ttl = place.get("ttl") if isinstance(place, dict) else None
        if isinstance(ttl, int) and not isinstance(ttl, bool) and 0 < ttl < 100_000:
            place["ttl"] = ttl + 100_000


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """False for a failure that is none."""
    # The answer to a HEAD has no content to name its problem.
    name = problem(response) or {400: "bad-query", 504: "not-cached"}.get(response.status_code)
    query = case.query or {}
    if isinstance(failure, RejectedPositiveData):
        # Which parameters go together, and which texts are cursors, a description cannot say.
        if name == "bad-query" and ("cursor" in query or ("key" in query and len(query) > 1)):
            return False
        # Nor that a text is made of lines, each an operation.
        if name == "bad-batch" and response.request.headers["Content-Type"] == "application/x-ndjson":
            return False
        # It was asked for that the table is not.
        if name == "not-cached" and "only-if-cached" in field(case, "Cache-Control"):
            return False
    if isinstance(failure, ServerError) and name == "not-cached":
        return "only-if-cached" not in field(case, "Cache-Control")
    if isinstance(failure, AcceptedNegativeData) and response.request.method == "OPTIONS":
        # The methods are the same whatever the key is; and a browser whose preflight was refused would not let its script
        # see what is wrong with it.
        return response.status_code != 204
    if isinstance(failure, AcceptedNegativeData) and response.request.method == "PUT" and not response.request.body:
        # What is sent without a body has Content-Length: 0. That is the empty value.
        return False
    if isinstance(failure, AcceptedNegativeData) and response.request.method == "PUT" and case.path == "/kv":
        # Lines that are no rows are no failure of the load: they are counted, and named.
        return response.status_code != 200
    if isinstance(failure, UseAfterFree) and response.request.method == "OPTIONS":
        # The methods of a key are the same whether there is a row or not.
        return response.status_code != 204
    if isinstance(failure, MissingContentType):
        # A row that is new and whose value nobody wants to have told: 201 with nothing in it.
        return "preference-applied" not in response.headers or bool(response.content)
    if isinstance(failure, AllowHeaderMismatch):
        # OpenAPI has no SET; and what there is to POST to has op=incr behind it: without, that is no method here.
        return (failure.missing_methods, failure.undocumented_methods) != (["POST"], ["SET"])
    return True


def problem(response):
    """The name of the problem, if the answer is one."""
    if response.headers.get("content-type") != ["application/problem+json"] or not response.content:
        return None
    return response.json()["type"].removeprefix("urn:hotrow:problem:")


def field(case, name):
    return (case.headers or {}).get(name, "").lower()
