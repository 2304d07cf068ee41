"""The report as one self-contained HTML page: `render.page(summary)`."""
