"""Heads that Detectron2 lacks."""
