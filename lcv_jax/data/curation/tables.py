"""Conditions in SQL over tables of the library (DuckDB): filters of selections, and looking around."""

import duckdb
import pyarrow as pa

from lcv_jax.errors import InputError


def where(table: pa.Table, condition: str, what: str) -> pa.Table:
    """The rows for which a condition holds, in their order. It sees the table's fields and nothing else: no files, no
    network. Raises InputError where it is no condition on them; what: for the message, whose condition it is."""
    connection = duckdb.connect(config={"enable_external_access": "false"})
    try:
        connection.execute("SET lock_configuration = true")
        connection.register("clips", table.append_column("_row", pa.array(range(len(table)), pa.int64())))
        asked = f"SELECT _row FROM clips WHERE ({condition}\n) ORDER BY _row"
        if len(connection.extract_statements(asked)) != 1:
            raise InputError(f"{what} {condition!r}: is more than one statement; expected a condition in SQL")
        found = connection.execute(asked).fetchall()
    except duckdb.Error as error:
        said = " ".join(str(error).split("\n\n")[0].split())
        raise InputError(
            f"{what} {condition!r}: {said}; expected a condition in SQL on the fields of a clip"
        ) from error
    finally:
        connection.close()
    return table.take(pa.array([row for (row,) in found], pa.int64()))
