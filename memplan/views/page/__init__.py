"""One page of any reports: verdict first, then where the bytes go, then what to do.

    inputs      files: captures, reports, comparisons
    content     what stands on the page, section by section
    budget ...  one module a plot, each with its table and what it says in words
    html, markdown, sheet, data     the same content in four formats

Everything about memory is decided in `content` and below it: a format only writes.
"""
