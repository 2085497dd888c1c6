"""Spans by OpenTelemetry's conventions for generative AI, sent to a collector that the environment names."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from faults.house import HTTP, House, ask, gateway
from feilun.serve import tracing
from tests.receiver import listening

SECRET = "zanzibar"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def spans(got: list[tuple[dict[str, str], bytes]]) -> dict[str, dict[str, Any]]:
    """What came, by name: attributes, with the ids and the status beside them."""
    found = {}
    for _, body in got:
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in part.scope_spans:
                for span in scope.spans:
                    values = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
                    values |= {"trace": span.trace_id.hex(), "parent": span.parent_span_id.hex()}
                    values |= {"seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9}
                    found[span.name] = values
    return found


def test_an_answer_is_told_as_a_span_without_a_word_of_its_user(house: House) -> None:
    with listening() as collector:
        environment = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url}
        with gateway(house, environment=environment) as running:
            token = house.tokens["acme"]
            good = ask(running, token, f"good {SECRET}", headers={"traceparent": PARENT}).json()
            ask(running, token, model=SECRET)
            HTTP.get(f"{running.base}/v1/{SECRET}?{SECRET}=1", headers={"Authorization": f"Bearer {SECRET}"})
            assert running.stop() == 0
        found = spans(collector.got)
        everything = b"".join(body for _, body in collector.got)
    answer = found["classify reviews"]
    assert answer["gen_ai.operation.name"] == "classify"
    assert answer["gen_ai.provider.name"] == "feilun"
    assert answer["gen_ai.request.model"] == "reviews"
    assert answer["gen_ai.response.model"] == good["model"]
    assert answer["gen_ai.response.id"] == good["id"]
    assert answer["gen_ai.usage.input_tokens"] == good["usage"]["tokens"]
    assert answer["http.response.status_code"] == 200
    assert answer["feilun.tenant"] == "acme"
    assert (answer["trace"], answer["parent"]) == tuple(PARENT.split("-")[1:3])
    assert 0 < answer["seconds"] < 10
    assert found["POST /v1/classify"]["error.type"] == "model-not-found"
    assert SECRET.encode() not in everything
    assert token.encode() not in everything


def test_a_collector_that_is_away_holds_nobody_up(house: House) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with gateway(house, environment=environment) as running:
        assert [ask(running, house.tokens["acme"]).status_code for _ in range(5)] == [200] * 5
        assert "unexpected" not in running.log.read_text()


def test_without_an_endpoint_there_is_no_tracing() -> None:
    assert tracing.from_environment() is None


def test_operations_have_the_names_of_the_conventions() -> None:
    assert tracing.operation_of("/v1/chat/completions") == "chat"
    assert tracing.operation_of("/v1/completions") == "text_completion"
    assert tracing.operation_of("/v1/embeddings") == "embeddings"
    assert tracing.operation_of("/v1/classify") == "classify"
