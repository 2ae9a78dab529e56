"""Old names of value estimators."""

OLD = {
    "TD0Estimate": "TD0Estimator",
    "TD1Estimate": "TD1Estimator",
    "TDEstimate": "TD0Estimator",
    "TDLambdaEstimate": "TDLambdaEstimator",
}
