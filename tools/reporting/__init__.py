"""The parts of tools/report.py: pictures, tables and the page."""
