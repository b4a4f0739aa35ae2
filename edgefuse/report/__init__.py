"""Reports as pages for people: HTML that needs nothing beside it, and Markdown to paste."""
