#!/usr/bin/env bash
# pyarrow 26.0.1 with pandas 3.1.1 installed beside it (Python 3.11, Linux).
#
# A program that never asks for pandas loads it all the same, where it is installed: making a column of a Python list or
# a numpy array, a scalar, and reading a Parquet file into Python lists all import pandas. `import pyarrow`,
# `import pyarrow.parquet` and a schema do not. A command-line tool that reads a table of a few rows pays some tenths of
# a second for it, and `pyarrow` alone does not show up as the cause.
#
# Seen (True: pandas is in sys.modules afterwards):
#   False  import pyarrow.parquet
#   False  pa.schema
#   True   pa.array of a list
#   True   pa.array of a numpy array
#   True   pa.scalar
#   True   read_table(...).to_pylist()
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet 'pyarrow==26.0.1' 'pandas==3.1.1' 'numpy==2.4.6'
cd "$folder"
venv/bin/python -c 'import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({"a": [1, 2]}), "two.parquet")'
said() {
  printf '%-6s %s\n' "$(venv/bin/python -c "$2"$'\n''import sys; print("pandas" in sys.modules)')" "$1"
}
{
  said 'import pyarrow.parquet' 'import pyarrow.parquet'
  said 'pa.schema' 'import pyarrow as pa; pa.schema([("a", pa.int64())])'
  said 'pa.array of a list' 'import pyarrow as pa; pa.array([1, 2])'
  said 'pa.array of a numpy array' 'import numpy, pyarrow as pa; pa.array(numpy.arange(2))'
  said 'pa.scalar' 'import pyarrow as pa; pa.scalar(1)'
  said 'read_table(...).to_pylist()' 'import pyarrow.parquet as pq; assert pq.read_table("two.parquet").to_pylist()[0] == {"a": 1}'
} | tee seen
diff seen - <<'SEEN'
False  import pyarrow.parquet
False  pa.schema
True   pa.array of a list
True   pa.array of a numpy array
True   pa.scalar
True   read_table(...).to_pylist()
SEEN
echo 'as described'
