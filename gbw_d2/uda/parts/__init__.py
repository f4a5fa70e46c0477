"""Pieces that strategies share: functions on tensors that know no strategy and no model."""
