"""What a reconstruction is good for: coverage as a robot sees it, a verdict with its reasons, and the page that shows both."""
