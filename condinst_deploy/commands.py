"""Entry points of this package's commands."""

from condinst_deploy.support.launch import command

benchmark = command("condinst_deploy.cli.benchmark")
client = command("condinst_deploy.cli.client")
doctor = command("condinst_deploy.cli.doctor")
evaluate = command("condinst_deploy.cli.evaluate")
predict = command("condinst_deploy.cli.predict")
train = command("condinst_deploy.cli.train")
triton_repo = command("condinst_deploy.cli.triton_repo")
