"""Entry points of this package's commands."""

from condinst_deploy.support.launch import command

benchmark = command("condinst_deploy.cli.benchmark")
doctor = command("condinst_deploy.cli.doctor")
evaluate = command("condinst_deploy.cli.evaluate")
predict = command("condinst_deploy.cli.predict")
train = command("condinst_deploy.cli.train")
