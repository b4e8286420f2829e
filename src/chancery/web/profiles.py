"""How a profile is shown."""

from __future__ import annotations

from chancery.pkix.profile import Profile
from chancery.web.views import ProfileView


def profile_view(profile: Profile, *, whole: bool) -> ProfileView:
    """Return what is shown of a profile, its source included when `whole`."""
    return ProfileView(
        name=profile.name,
        version=profile.version,
        sha256=profile.sha256.hex(),
        default_issuer=profile.default_issuer,
    )
