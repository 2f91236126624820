"""What this machine has for the toolkit, and whether it can run a given model file."""

from condinst_deploy.doctor.diagnosis import Check, Diagnosis, diagnose

__all__ = ["Check", "Diagnosis", "diagnose"]
