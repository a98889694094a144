"""From outcomes to evidence: statistics, metrics, the leaderboard."""
