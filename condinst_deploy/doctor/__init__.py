"""Diagnosis of a machine: installed libraries and devices, and whether it can run a model file."""

from condinst_deploy.doctor.diagnosis import Check, Diagnosis, diagnose

__all__ = ["Check", "Diagnosis", "diagnose"]
