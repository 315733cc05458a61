"""Pages about runs and evaluations: one self-contained HTML file (inline SVG, no script) and Markdown beside it."""
