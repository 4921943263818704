"""Signing in by the hospital's own identity provider: OpenID Connect Core 1.0, authorization code flow with PKCE.

What is begun here is remembered for ten minutes, in this process, and belongs to the browser that began it: the answer
must come with the same `state`, from the browser that holds the binding's cookie, and the id token must carry the
`nonce`. The provider's word makes a session; which roles it gives stands in the settings, claim by claim.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import aiohttp
import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from msgspec import Struct

from mover.access.sessions import Vouched
from mover.authority import believing, refusal
from mover.clock import SYSTEM, Clock
from mover.decide.access import why_not_name
from mover.errors import ProviderUnavailable, Unauthenticated
from mover.randomness import new_secret
from mover.settings import Oidc

BEGUN_AT_MOST = 1000
BEGUN_LIVES_S = 600.0
# what the provider says of itself, and its keys, are asked again after this; for an unknown key once a minute
KNOWN_FOR_S = 3600.0
ASK_AGAIN_S = 60.0
ANSWER_BYTES = 1 << 20
TIMEOUT_S = 10.0
CLOCKS_DIFFER_S = 60
# none of them a shared secret, and never `none`
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
REFUSED = "the identity provider's answer cannot be taken"


class Described(Struct, frozen=True):
    """Of a discovery document (OpenID Connect Discovery 1.0, 3), what is used here."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class Began(Struct, frozen=True):
    """Where the browser goes, and what its cookie holds until it comes back."""

    url: str
    binding: str


class Finished(Struct, frozen=True):
    vouched: Vouched
    to: str


class _Begun(Struct, frozen=True):
    binding: bytes
    nonce: str
    verifier: str
    to: str
    at_s: float


class Provider:
    """`secret` answers the client's, asked for each time so that it may be changed meanwhile; it goes to the provider's
    token endpoint and nowhere else."""

    def __init__(
        self, settings: Oidc, *, redirect_uri: str, secret: Callable[[], Awaitable[str | None]], clock: Clock = SYSTEM
    ) -> None:
        self._settings = settings
        self._redirect_uri = redirect_uri
        self._secret = secret
        self._tls = believing(settings.ca_file, where="access.oidc.ca_file")
        self._clock = clock
        self._begun: OrderedDict[str, _Begun] = OrderedDict()
        self._described: tuple[Described, float] | None = None
        self._keys: tuple[KeySet, float] | None = None
        self._asking = asyncio.Lock()

    @property
    def label(self) -> str:
        return self._settings.label

    async def begin(self, to: str) -> Began:
        """A person wants in, and then to `to`."""
        described = await self._description()
        state, nonce, binding, verifier = new_secret(), new_secret(), new_secret(), new_secret()
        self._remember(state, _Begun(_sha256(binding), nonce, verifier, to, self._clock.monotonic_s()))
        query = {
            "response_type": "code", "client_id": self._settings.client_id, "redirect_uri": self._redirect_uri,
            "scope": " ".join(self._settings.scopes), "state": state, "nonce": nonce,
            "code_challenge": _base64url(_sha256(verifier)), "code_challenge_method": "S256",
        }  # fmt: skip
        joint = "&" if urlsplit(described.authorization_endpoint).query else "?"
        return Began(f"{described.authorization_endpoint}{joint}{urlencode(query)}", binding)

    async def finish(self, *, state: str, binding: str, code: str) -> Finished:
        """The browser is back. Raises Unauthenticated for whatever was not begun here, by it, or is not vouched for."""
        begun = self._begun.pop(state, None)
        if begun is None or self._clock.monotonic_s() - begun.at_s > BEGUN_LIVES_S:
            raise Unauthenticated("this sign-in was not begun here, or is over", hint="Begin again.")
        if not hmac.compare_digest(_sha256(binding), begun.binding):
            raise Unauthenticated("another browser began this sign-in", hint="Begin again.")
        claims = await self._claims(await self._id_token(code, begun.verifier), nonce=begun.nonce)
        return Finished(self._vouched(claims), begun.to)

    def _remember(self, state: str, begun: _Begun) -> None:
        self._begun[state] = begun
        while len(self._begun) > BEGUN_AT_MOST:
            self._begun.popitem(last=False)

    # --- what the provider says -------------------------------------------------------------------------------------

    async def _id_token(self, code: str, verifier: str) -> str:
        described = await self._description()
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }  # fmt: skip
        secret = await self._secret()
        if secret is None:
            raise ProviderUnavailable("the client's secret is not there", hint="Put it back: `access.oidc` names it.")
        client = {"client_id": self._settings.client_id, "client_secret": secret}
        headers = {}
        if "client_secret_basic" in described.token_endpoint_auth_methods_supported:  # RFC 6749, 2.3.1
            headers["Authorization"] = aiohttp.BasicAuth(*map(quote_plus, client.values())).encode()
        else:
            form |= client
        answer = await self._ask("POST", described.token_endpoint, form, headers)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise Unauthenticated(REFUSED, hint="Begin again; the code may have been used, or be too old.")
        return token

    async def _claims(self, token: str, *, nonce: str) -> Mapping[str, Any]:
        """OpenID Connect Core 1.0, 3.1.3.7: signature, issuer, audience, time, nonce."""
        described = await self._description()
        keys = await self._key_set()
        try:
            try:
                decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
            except (JoseError, ValueError):
                # it may have been signed by a key that is new
                decoded = jwt.decode(token, await self._key_set(anew=True), algorithms=ALGORITHMS)
            now = int(self._clock.now().timestamp())
            registry = jwt.JWTClaimsRegistry(
                now=now, leeway=CLOCKS_DIFFER_S, iss={"essential": True, "value": described.issuer},
                aud={"essential": True, "value": self._settings.client_id}, exp={"essential": True},
                iat={"essential": True}, sub={"essential": True}, nonce={"essential": True, "value": nonce},
            )  # fmt: skip
            registry.validate(decoded.claims)
        except (JoseError, ValueError) as error:
            raise Unauthenticated(REFUSED) from error
        self._check_party(decoded.claims)
        return decoded.claims

    def _check_party(self, claims: Mapping[str, Any]) -> None:
        """With several audiences, it must be us to whom it was issued (3.1.3.7, 4 and 5)."""
        ours = self._settings.client_id
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else ours) != ours:
            raise Unauthenticated(REFUSED)

    def _vouched(self, claims: Mapping[str, Any]) -> Vouched:
        name, subject = claims.get(self._settings.name_claim), claims["sub"]
        if not isinstance(name, str) or why_not_name(name) or not isinstance(subject, str):
            raise Unauthenticated(
                "the identity provider tells no name that can be one here",
                hint="`name_claim` in the settings names a claim of letters, digits, '@', '.', '_' and '-'.",
            )
        roles: dict[str, str] = {}
        for rule in self._settings.roles:  # the first that fits a project counts
            said = claims.get(rule.claim)
            if rule.value == said or (isinstance(said, list) and rule.value in said):
                roles.setdefault(rule.project, rule.role)
        return Vouched(issuer=str(claims["iss"]), subject=subject, name=name, roles=roles)

    # --- asked once an hour -----------------------------------------------------------------------------------------

    async def _description(self) -> Described:
        async with self._asking:
            now_s = self._clock.monotonic_s()
            if self._described is None or now_s - self._described[1] > KNOWN_FOR_S:
                url = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
                self._described = self._checked(await self._ask("GET", url)), now_s
            return self._described[0]

    def _checked(self, answer: dict[str, Any]) -> Described:
        try:
            described = msgspec.convert(answer, Described)
        except msgspec.ValidationError as error:
            raise ProviderUnavailable("the identity provider does not describe itself", where="access.oidc") from error
        if described.issuer.rstrip("/") != self._settings.issuer.rstrip("/"):
            raise ProviderUnavailable("the identity provider calls itself by another name", where="access.oidc.issuer")
        return described

    async def _key_set(self, *, anew: bool = False) -> KeySet:
        described = await self._description()
        async with self._asking:
            now_s = self._clock.monotonic_s()
            age_s = now_s - self._keys[1] if self._keys is not None else KNOWN_FOR_S + 1
            if self._keys is None or age_s > (ASK_AGAIN_S if anew else KNOWN_FOR_S):
                self._keys = _key_set(await self._ask("GET", described.jwks_uri)), now_s
            return self._keys[0]

    async def _ask(
        self, method: str, url: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Nothing of the answer's text is kept: it may quote whoever signed in."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        raw = b""
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method, url, data=form, headers=headers, ssl=self._tls, allow_redirects=False
                ) as response,
            ):
                status = response.status
                async for piece in response.content.iter_chunked(64 << 10):
                    raw += piece
                    if len(raw) > ANSWER_BYTES:
                        raise ProviderUnavailable("the identity provider's answer is too long", where="access.oidc")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(error) from error
        if status >= 500 or (method == "GET" and status != 200):
            raise ProviderUnavailable(f"the identity provider answers {status}", where="access.oidc")
        try:
            return msgspec.json.decode(raw, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ProviderUnavailable("the identity provider's answer is no JSON", where="access.oidc") from error


def _unavailable(error: Exception) -> ProviderUnavailable:
    refused = refusal(error)
    if refused is None:
        return ProviderUnavailable("the identity provider does not answer", where="access.oidc")
    return ProviderUnavailable(
        f"the identity provider is not believed: {refused.what}", where="access.oidc",
        hint=f"{refused.hint} Its authority's file is `ca_file` of `access.oidc`.",
    )  # fmt: skip


def _key_set(answer: dict[str, Any]) -> KeySet:
    try:
        return KeySet.import_key_set(answer)  # type: ignore[arg-type]  # what is no key set is refused
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise ProviderUnavailable("the identity provider's keys are none", where="access.oidc") from error


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
