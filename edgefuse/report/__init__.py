"""Reports as pages for people: a table of figures as HTML, as Markdown or in a terminal; pictures.

May import what is below `demo` and `report`: the records of a compression and of a squeeze, and the
board's reports.
"""
