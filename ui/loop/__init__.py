"""The Loop tab."""
