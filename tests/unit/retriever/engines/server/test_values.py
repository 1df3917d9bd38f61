import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from qdrant_client import grpc as api

from services.retriever.engines.server.values import rows_of, set_rows, set_values, set_vector, values_of, vector_of

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
json = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(st.dictionaries(st.text(), json))
def test_what_is_written_into_a_message_is_read_from_it_on_the_other_side(values):
    struct = api.Struct()
    set_values(struct.fields, values)
    read = values_of(api.Struct.FromString(struct.SerializeToString()).fields)
    assert read == values
    assert {name: type(value) for name, value in read.items()} == {name: type(value) for name, value in values.items()}


vectors = arrays.arrays(np.float32, st.integers(0, 400), elements=st.floats(allow_nan=False, width=32))


@given(vectors)
def test_a_vector_is_the_same_message_as_one_filled_value_by_value(vector):
    message = api.DenseVector()
    set_vector(message, vector)
    assert message == api.DenseVector(data=vector.tolist())


@given(vectors)
def test_a_vector_is_read_from_the_new_and_the_old_form_of_an_answer(vector):
    new = api.VectorOutput(dense=api.DenseVector(data=vector.tolist()))
    old = api.VectorOutput(data=vector.tolist())
    assert vector_of(new).tolist() == vector_of(old).tolist() == vector.tolist()
    assert vector_of(new).dtype == vector_of(old).dtype == np.float32


codes = arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 130)))


@given(codes)
def test_token_vectors_are_the_same_bytes_in_the_new_and_the_old_form_of_an_answer(rows):
    written = api.MultiDenseVector()
    set_rows(written, rows)
    assert written == api.MultiDenseVector(vectors=[api.DenseVector(data=row) for row in rows.tolist()])
    old = api.VectorOutput(data=rows.ravel().tolist(), vectors_count=len(rows))
    for read in (rows_of(api.VectorOutput(multi_dense=written)), rows_of(old)):
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, rows)
