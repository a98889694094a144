"""One page about finished runs, in a single HTML file that works offline."""
