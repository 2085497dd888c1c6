"""Makes churn.onnx of customers.csv: pip install scikit-learn skl2onnx, then python train.py."""

import csv
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

HERE = Path(__file__).parent
# each column is an input of its own, so that the graph knows their names
COLUMNS = [
    ("age", Int64TensorType([None, 1])),
    ("visits", FloatTensorType([None, 1])),
    ("plan", StringTensorType([None, 1])),
]

with (HERE / "customers.csv").open(encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
known = np.array([[int(row["age"]), float(row["visits"]), row["plan"]] for row in rows], dtype=object)
scaled = ("numbers", StandardScaler(), [0, 1])
chosen = ("plan", OneHotEncoder(handle_unknown="ignore"), [2])
model = make_pipeline(ColumnTransformer([scaled, chosen]), LogisticRegression())
model.fit(known, [row["became"] for row in rows])
(HERE / "churn.onnx").write_bytes(to_onnx(model, initial_types=COLUMNS, name="churn").SerializeToString())
