import pytest

from infra.shortage import Shortage, next_zone, shortage

WORDS = "The zone 'projects/p/zones/us-central1-a' does not have enough resources available to fulfill the request.  Try later."


def operation(code: str, zones_available: str | None = None, message: str = WORDS) -> dict[str, object]:
    details = [] if zones_available is None else [{"errorInfo": {"metadatas": {"zonesAvailable": zones_available}}}]
    return {"id": "1", "error": {"errors": [{"code": code, "message": message, "errorDetails": details}]}}


@pytest.mark.parametrize("code", ["ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"])
def test_both_codes_of_a_stock_out_count(code):
    assert shortage([operation(code)], printed="") == Shortage("sold_out", WORDS)


def test_the_error_says_where_there_are_some():
    found = shortage([operation("ZONE_RESOURCE_POOL_EXHAUSTED", "us-central1-f, us-central1-c")], printed="")

    assert found == Shortage("sold_out", WORDS, ("us-central1-f", "us-central1-c"))


def test_an_empty_list_of_zones_names_none():
    found = shortage([operation("ZONE_RESOURCE_POOL_EXHAUSTED", "")], printed="")

    assert found is not None
    assert found.zones_available == ()


def test_the_operation_decides_even_where_the_words_say_quota():
    printed = "Error: Quota 'NVIDIA_L4_GPUS' exceeded.  Limit: 1.0"

    found = shortage([operation("ZONE_RESOURCE_POOL_EXHAUSTED")], printed)

    assert found is not None
    assert found.kind == "sold_out"


def test_a_quota_is_no_stock_out():
    message = "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally."

    assert shortage([operation("QUOTA_EXCEEDED", message=message)], printed="") == Shortage("quota", message)


def test_without_operations_the_printed_words_decide():
    sold_out = shortage([], f"error: Error waiting for instance to create: {WORDS}")
    quota = shortage([], "error: Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally.\nmore")

    assert sold_out is not None
    assert sold_out.kind == "sold_out"
    assert quota == Shortage("quota", "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally.")


def test_any_other_failure_is_none():
    assert shortage([operation("RESOURCE_NOT_FOUND")], "error: something else") is None


SOLD_OUT = Shortage("sold_out", "")


def test_zones_that_the_error_names_come_first():
    found = Shortage("sold_out", "", ("us-central1-c", "europe-west4-a", "nowhere-z"))

    assert next_zone(["us-central1-a"], found, other_regions=False) == "us-central1-c"
    assert next_zone(["us-central1-a", "us-central1-c"], found, other_regions=True) == "europe-west4-a"


def test_no_zone_is_tried_twice_and_the_end_is_told():
    tried = ["us-central1-a"]
    while zone := next_zone(tried, SOLD_OUT, other_regions=False):
        tried.append(zone)

    assert tried == ["us-central1-a", "us-central1-b", "us-central1-c"]


def test_other_regions_only_if_allowed():
    region = ["us-central1-a", "us-central1-b", "us-central1-c"]

    assert next_zone(region, SOLD_OUT, other_regions=False) is None
    assert next_zone(region, SOLD_OUT, other_regions=True) == "us-east1-b"
