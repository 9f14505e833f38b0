"""From the results file of a comparison to what people read: HTML, CSV."""
