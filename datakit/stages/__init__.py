"""Stages: functions on one sample, one batch, or all rows."""
