"""A source whose rows a test lists."""

from gcl.data.record import SourceRow


class RowList(list[SourceRow]):
    folder = None  # the rows bring their images
