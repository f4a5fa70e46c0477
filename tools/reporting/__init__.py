"""What tools/report.py puts together: pictures, charts and the page."""
