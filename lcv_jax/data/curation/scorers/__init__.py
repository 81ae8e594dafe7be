"""Scorers: what single clips are measured by, from blur to watermarks; docs/curation/scorers.md tells of each field."""
