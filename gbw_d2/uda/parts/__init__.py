"""Parts shared by strategies: functions on tensors, independent of strategies and networks."""
