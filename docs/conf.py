"""Sphinx's settings of the site that docs/site.py writes the pages of."""

project = "scgpt-bench"
author = "the scgpt-bench authors"
extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"source_view_link": "", "top_of_page_buttons": []}
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # YAML with `...` in it
