from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from services.retriever.engines.conversions import to_filter
from services.retriever.fields import ALL, AnyOf, Equals, Exists, FieldType, Filter, Range

SCHEMA = {
    "kind": FieldType.KEYWORD,
    "year": FieldType.INTEGER,
    "since": FieldType.FLOAT,
    "stable": FieldType.BOOL,
}


def test_an_empty_filter_is_none():
    assert to_filter(ALL) is None


values = {
    "kind": st.text(),
    "year": st.integers(-(2**63), 2**63 - 1),
    "since": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000),
    "stable": st.booleans(),
}
conditions = st.sampled_from(sorted(SCHEMA)).flatmap(
    lambda field: st.one_of(
        st.builds(Equals, st.just(field), values[field]),
        st.builds(AnyOf, st.just(field), st.lists(values[field], min_size=1, max_size=5)),
        st.builds(Exists, st.just(field), st.booleans()),
        st.builds(Range, st.sampled_from(["year", "since"]), gte=st.floats(-1e9, 1e9)),
    )
)
conditions = st.recursive(
    conditions,
    lambda inner: st.builds(Filter, st.lists(inner, min_size=1, max_size=2), st.lists(inner, max_size=2)),
    max_leaves=6,
)


@given(st.lists(conditions, max_size=4), st.lists(conditions, max_size=4), st.lists(conditions, max_size=4))
def test_every_filter_that_fits_the_fields_has_a_counterpart_in_qdrant(must, should, must_not):
    translated = to_filter(Filter(must, should, must_not).fit(SCHEMA))
    if translated is None:
        assert not (must or should or must_not)
        return
    groups = (translated.must, translated.should, translated.must_not)
    assert [len(group) for group in groups] == [len(must), len(should), len(must_not)]
    assert models.Filter.model_validate(translated.model_dump()) == translated
