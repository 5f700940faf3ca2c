from hypothesis import given
from hypothesis import strategies as st
from tests.kvengine.conftest import capture

from kvengine.exposition import counted_names, labels_of, name_of, parse


def test_series_stand_as_written_and_buckets_are_left_out() -> None:
    text = capture("vllm_metrics_nodeB_mooncakestore.txt")
    series = parse(text)
    assert not any(name_of(key).endswith("_bucket") for key in series)
    samples = [
        line
        for line in text.splitlines()
        if line.strip() and not line.startswith("#") and "_bucket{" not in line
    ]
    assert set(series) == {line.rpartition(" ")[0] for line in samples}
    key = 'vllm:prompt_tokens_by_source_total{engine="0",model_name="tiny",source="local_compute"}'
    assert series[key] == 6755


def test_hard_lines() -> None:
    series = parse(
        'a{path="C:\\\\x}\\"y\\"",n="1\\n2"} 3 1700000000000\n'
        "b 4\nc NaN\nd +Inf\ne 5 \r\nbroken{ 6\nnot a number x\n\n# HELP b words\n# EOF\n"
    )
    [key] = [key for key in series if key.startswith("a{")]
    assert labels_of(key) == {"path": 'C:\\x}"y"', "n": "1\n2"}
    assert {name: series[name] for name in series if "{" not in name} == {"b": 4.0, "e": 5.0}


def test_what_only_rises_is_known_by_type_and_not_by_name() -> None:
    names = counted_names(capture("mooncake_metrics_vllm_1_after_A.txt"))
    assert "master_evicted_key_count" in names  # a counter
    assert "master_key_count" not in names  # a gauge
    assert {"master_value_size_bytes_sum", "master_value_size_bytes_count"} <= names


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(), max_size=4))
def test_any_label_value_comes_back(labels: dict[str, str]) -> None:
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for name, value in labels.items()
    }
    line = "m{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "} 1"
    [(key, value)] = parse(line).items()
    assert (labels_of(key), value) == (labels, 1.0)
