"""CondInst by this toolkit beside mmdetection and mmdeploy: see README.md."""
