"""The method: data rules, models, maths and training; knows neither Prefect nor MLflow."""
