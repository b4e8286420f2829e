"""Many protocols, one enrolment request."""
