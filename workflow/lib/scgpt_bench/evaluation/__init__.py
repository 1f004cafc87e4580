"""From predicted cells to metrics, scores and verdicts."""
