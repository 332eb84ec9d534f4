"""MLflow receives the measurements of a search if it is installed."""

import sys
import types

from tune_runs import RATE, RATES, search


class Server(types.ModuleType):
    """Stands in for the module mlflow."""

    def __init__(self):
        super().__init__("mlflow")
        self.log, self.fails = [], False
        for name in ("set_tracking_uri", "set_experiment", "log_params", "set_tags", "log_metrics"):
            setattr(self, name, lambda *args, _name=name, **options: self.log.append((_name, args, options)))

    def start_run(self, *, run_name):
        if self.fails:
            raise ConnectionError("no\nserver")
        self.log.append(("start_run", (run_name,), {}))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.log.append(("end_run", (), {}))


def test_mlflow_receives_every_trial_if_it_is_installed(quick, tmp_path, monkeypatch):
    server = Server()
    monkeypatch.setitem(sys.modules, "mlflow", server)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    search(tmp_path / "search", 2, RATES)
    named = {name: [args for found, args, _ in server.log if found == name] for name, *_ in server.log}
    assert named["start_run"] == [("trial 0000",), ("trial 0001",)]
    assert len(named["end_run"]) == 2
    assert named["log_params"][0] == ({RATE: 3e-3},)
    assert named["set_tracking_uri"][0][0].endswith("/search/mlruns/mlflow.db")
    logged = [(args[0], options["step"]) for found, args, options in server.log if found == "log_metrics"][:3]
    assert logged[1] == ({"val/epoch": 2.0, "val/dice": 1.0}, 8)
    assert logged[2] == ({"train/epoch": 2.0, "train/loss": 0.5, "train/dice": 9.0}, 8)


def test_the_users_server_setting_is_not_changed_and_the_server_may_fail(quick, tmp_path, monkeypatch):
    server, told = Server(), []
    server.fails = True
    monkeypatch.setitem(sys.modules, "mlflow", server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    search(tmp_path / "search", 1, RATES, told=told)
    assert "set_tracking_uri" not in {name for name, *_ in server.log}
    assert "MLflow did not accept trial 0000: ConnectionError: no server" in told
    assert not (tmp_path / "search" / "mlruns").exists()
