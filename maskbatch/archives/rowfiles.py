"""Images in rows of a Parquet file, as in Hugging Face's data sets and WebDataset's exports.

Planning reads only the footer and the light columns. Workers read images a row group at a time, page by page.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskbatch.archives.columns import (
    Row,
    check_columns,
    choose_columns,
    clean_row,
    describe_row,
    is_text,
    to_texts,
)
from maskbatch.archives.entries import Entry
from maskbatch.archives.members import Container
from maskbatch.errors import UsageError
from maskbatch.stores.uris import encode_name

IMAGE_COLUMNS = ("image", "bytes", "data", "content", "jpg", "jpeg", "png")
"""Likely names of a column of images, the likeliest first."""
NAME_COLUMNS = ("path", "file_name", "filename", "name", "key", "__key__")
MAX_GROUP_BYTES = 8 << 30
MAX_GROUP_ROWS = 1 << 24
"""A hostile footer can claim any number of rows at no cost."""
PAGE_BYTES = 1 << 20
NO_PARQUET = "this is no Parquet file, or it is damaged"
DAMAGED = "the columns beside the image are damaged"
TOO_MANY_ROWS = f"one of its row groups claims more than {MAX_GROUP_ROWS:,} rows"
NO_BYTES = "the row has no bytes"
TOO_LARGE = f"its row group claims more than {MAX_GROUP_BYTES >> 30} GiB of images; write smaller row groups"


def find_image_column(schema: pa.Schema) -> str | None:
    """The binary column of images, or a struct with a binary field `bytes`. Raises UsageError for several."""
    candidates = [field.name for field in schema if _is_binary(field.type) or _is_image_struct(field.type)]
    likely = [name for known in IMAGE_COLUMNS for name in candidates if name.lower() == known]
    if not likely and len(candidates) > 1:
        what = f"any of the columns {', '.join(candidates)} may hold the images"
        raise UsageError(f"{what}; name the right one image")
    return next(iter(likely or candidates), None)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_image_struct(kind: pa.DataType) -> bool:
    at = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return at >= 0 and _is_binary(kind.field(at).type)


def find_image_lists(schema: pa.Schema) -> str | None:
    """The first column whose rows are lists of images."""
    return next((field.name for field in schema if _is_image_list(field.type)), None)


def _is_image_list(kind: pa.DataType) -> bool:
    types = pa.types
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    kind = kind.value_type
    return _is_binary(kind) or _is_image_struct(kind) or _is_image_list(kind)


def _image_path(schema: pa.Schema) -> str:
    """The image column's path in a Parquet file, `image` or `image.bytes`."""
    image = find_image_column(schema)
    if image is None:
        raise UsageError(f"no column of images among {', '.join(schema.names)}; a binary one expected")
    return image if _is_binary(schema.field(image).type) else f"{image}.bytes"


def _open_parquet(file: BinaryIO) -> pq.ParquetFile:
    return pq.ParquetFile(file, buffer_size=PAGE_BYTES, pre_buffer=False)


def list_rows(container: Container) -> Iterator[Entry]:
    """Every row of a Parquet file as an image. Raises UsageError if a column is missing, or has no image."""
    try:
        parquet = _open_parquet(container.file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the disk or the store: Arrow's own errors have no number
        yield container.damage(NO_PARQUET)
        return
    try:
        image = _image_path(parquet.schema_arrow)
        light, names = _light_columns(parquet.schema_arrow, image, container.keep_column)
        if names:
            _refuse_paths_only(parquet.metadata, image)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{container.uri}: {error}") from error
    first = 0
    for group in range(parquet.num_row_groups):
        num_rows, num_bytes, num_nulls = _group_size(parquet.metadata.row_group(group), image)
        if not 0 <= num_rows <= MAX_GROUP_ROWS:
            yield container.damage(TOO_MANY_ROWS)
            return
        if 0 < num_nulls < num_rows:  # which ones, only reading them shows
            container.notes["row without bytes"] += num_nulls
        rows = _light_rows(parquet, group, light, names)
        damaged: tuple[Row | None, str | None] = (None, None)
        for i, (row, name) in enumerate(islice(chain(rows, repeat(damaged)), num_rows)):
            place: dict[str, Any] = {"offset": group, "length": i, "encoding": "row"}
            if num_bytes > MAX_GROUP_BYTES:
                place |= {"status": "too_large", "error": TOO_LARGE}
            elif num_nulls == num_rows:
                place |= {"status": "missing", "error": NO_BYTES}
            elif row is None:
                place |= {"status": "corrupt", "error": DAMAGED}
            inner = encode_name(name).lstrip("/") if name else str(first + i)
            columns = describe_row(row or {}, container.notes)
            yield container.entry(f"parquet://{first + i}", inner, **place, **columns)
        first += num_rows


def _light_columns(
    schema: pa.Schema, image: str, keep_column: str | None
) -> tuple[dict[str, str], list[str]]:
    """The columns of site, camera, time and --keep-column; and those with names, the likeliest first."""
    top = find_image_column(schema)
    others = [field for field in schema if field.name != top and not pa.types.is_nested(field.type)]
    chosen = choose_columns(tuple(field.name for field in others), keep_column)
    check_columns(chosen, [field.name for field in others], keep_column)
    light = {c: name for c, name in chosen.items() if c in ("site", "camera", "captured_at", "kept")}
    named = [f.name for known in NAME_COLUMNS for f in others if f.name.lower() == known and is_text(f.type)]
    has_path = top != image and schema.field(top).type.get_field_index("path") >= 0
    return light, [f"{top}.path"] * has_path + named


def _refuse_paths_only(metadata: pq.FileMetaData, image: str) -> None:
    """Raises ValueError where every row of a file is known to have no image, only its path."""
    sizes = [_group_size(metadata.row_group(group), image) for group in range(metadata.num_row_groups)]
    if any(num_rows for num_rows, _, _ in sizes) and all(nulls == rows for rows, _, nulls in sizes):
        what = f"images are not embedded: its column {image} has no bytes in any row"
        raise ValueError(f"{what}; write the images into it, or list their files in a manifest")


def _group_size(group: pq.RowGroupMetaData, image: str) -> tuple[int, int, int]:
    """Its rows, the bytes of its images, and how many rows have none, as it claims."""
    columns = [group.column(i) for i in range(group.num_columns)]
    images = [column for column in columns if column.path_in_schema == image]
    counts = [c.statistics.null_count for c in images if c.statistics and c.statistics.has_null_count]
    return group.num_rows, sum(column.total_uncompressed_size for column in images), sum(counts)


def _light_rows(
    parquet: pq.ParquetFile, group: int, light: dict[str, str], names: list[str]
) -> Iterator[tuple[Row, str | None]]:
    """The rows of a group and their names, as far as they can be read."""
    paths = [*light.values(), *names]
    if not paths:
        yield from repeat(({}, None), parquet.metadata.row_group(group).num_rows)
        return
    try:
        for batch in parquet.iter_batches(8192, row_groups=[group], columns=paths, use_threads=False):
            columns = [to_texts(_column(batch, path)) for path in paths]
            for values in zip(*columns, strict=True):
                row = clean_row(light, values[: len(light)])
                yield row, next((name for name in values[len(light) :] if name), None)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise


def _column(batch: pa.RecordBatch, path: str) -> pa.Array:
    """A column, or a field of a struct with a null where the struct is null."""
    if path in batch.schema.names:
        return batch.column(batch.schema.names.index(path))
    top, _, field = path.rpartition(".")
    return pc.struct_field(batch.column(batch.schema.names.index(top)), field)


class GroupReader:
    """Reads a row group forward, because its pages must be read in order. Raises ArrowException, OSError."""

    def __init__(self, file: BinaryIO, row_group: int) -> None:
        self.file = file
        parquet = _open_parquet(file)
        self._image = _image_path(parquet.schema_arrow)
        columns = [self._image]
        self._batches = parquet.iter_batches(16, row_groups=[row_group], columns=columns, use_threads=False)
        self._column: pa.Array = pa.nulls(0)
        self.first = 0
        """The first row that can still be read."""

    def read(self, rows: Sequence[int], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
        """The images in `rows`, ascending from `first`; None for a null, nothing for a row that is not there.

        Cuts a longer image at max_bytes + 1, so that the caller can tell.
        """
        for row in rows:
            if row < self.first:
                raise ValueError(f"row {row} comes after {self.first}: rows are read forward only")
            while row >= self.first + len(self._column):
                batch = next(self._batches, None)
                if batch is None:
                    return
                self.first += len(self._column)
                self._column = _column(batch, self._image)
            data = self._column[row - self.first].as_buffer()
            yield row, None if data is None else data[: max_bytes + 1].to_pybytes()
