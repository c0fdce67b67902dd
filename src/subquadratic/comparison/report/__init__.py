"""The page of a comparison, its tables as CSV and its charts as SVG."""
