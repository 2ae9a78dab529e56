"""Old names of what environments have."""

OLD: dict[str, str] = {}

# Old attribute of every environment -> the current one. They were those of multi-agent environments: composites.
OLD_ATTRIBUTES = {
    "unbatched_action_spec": "full_action_spec_unbatched",
    "unbatched_done_spec": "full_done_spec_unbatched",
    "unbatched_input_spec": "input_spec_unbatched",
    "unbatched_observation_spec": "full_observation_spec_unbatched",
    "unbatched_output_spec": "output_spec_unbatched",
    "unbatched_reward_spec": "full_reward_spec_unbatched",
    "unbatched_state_spec": "full_state_spec_unbatched",
}
