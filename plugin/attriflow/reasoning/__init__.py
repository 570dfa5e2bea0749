"""Answers explained through the reasoning before them; `attriflow.attribute_reasoning` is the way in."""
