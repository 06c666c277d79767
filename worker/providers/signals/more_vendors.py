"""Signals of further vendors and gateways that speak another vendor's dialect."""

from __future__ import annotations

from models.request import FailureKind as Kind
from models.request import FailureScope as Scope
from models.signals import MIDNIGHT, MONTH, Signal, Wait

_APIM = "Azure API Management docs: quota policy; MicrosoftDocs/azure-docs#16282, goferito/node-bing-api#34"
_CLOUDFLARE = "Cloudflare AI Gateway docs: error codes"
_COHERE = "Cohere docs: rate limits, errors"
_DATABRICKS = "Databricks docs: foundation model APIs, limits"
_QIANFAN = "Baidu Qianfan docs: error codes"
_SPARK = "iFlytek Spark docs: error codes"
_SHANGHAI = "Asia/Shanghai"

MORE_VENDORS: tuple[Signal, ...] = (
    # Azure
    Signal(
        "apim-quota",
        Kind.QUOTA,
        status=(403, 429),
        words=("out of call volume quota", "out of bandwidth quota"),
        scope=Scope.POOL,
        source=_APIM,
    ),
    Signal(
        "azure-subscription",
        Kind.QUOTA,
        status=(403,),
        words=("subscription is disabled",),
        scope=Scope.POOL,
        source="Azure docs: reactivate a disabled subscription",
    ),
    Signal(
        "azure-network",
        Kind.AUTH,
        status=(403,),
        words=("virtual network/firewall rules", "public access is disabled", "check your network settings"),
        scope=Scope.POOL,
        source="Azure docs: virtual networks of AI services; Groq: public reports of 403 behind a VPN",
    ),
    # Cohere
    Signal(
        "cohere-trial-month",
        Kind.QUOTA,
        status=(429,),
        words=("limited to * api calls / month",),
        scope=Scope.POOL,
        wait=Wait(until=MONTH),
        source=_COHERE,
    ),
    Signal(
        "cohere-too-long",
        Kind.CONTEXT_LENGTH,
        status=(400,),
        words=("number of tokens in the prompt cannot exceed",),
        scope=Scope.REQUEST,
        source=_COHERE,
    ),
    # NVIDIA NIM
    Signal(
        "nvidia-no-model",
        Kind.KEY_MODEL,
        status=(404,),
        words=("not found for account",),
        scope=Scope.MODEL,
        source="NVIDIA developer forum: 404 of hosted NIM functions",
    ),
    # Databricks
    Signal(
        "databricks-limit-zero",
        Kind.KEY_MODEL,
        status=(403, 429),
        words=("databricks-set rate limit of 0",),
        scope=Scope.MODEL,
        source=_DATABRICKS,
    ),
    Signal("databricks-no-model", Kind.MODEL, code=("ENDPOINT_NOT_FOUND",), scope=Scope.MODEL, source=_DATABRICKS),
    Signal(
        "databricks-too-long",
        Kind.CONTEXT_LENGTH,
        status=(400,),
        words=("prompt token count * cannot exceed",),
        scope=Scope.REQUEST,
        source=_DATABRICKS,
    ),
    # Cloudflare AI Gateway, Portkey, Helicone, LiteLLM: a guardrail's refusal concerns its request
    Signal(
        "gateway-guardrail",
        Kind.CONTENT_FILTER,
        status=(400, 403, 422, 424, 446),
        words=(
            "blocked due to security configurations",
            "blocked due to dlp policy",
            "violated * guardrail policy",
            "violated * moderation policy",
            "guardrail checks",
            "prompt threat detected",
            "prompt injection",
        ),
        scope=Scope.REQUEST,
        source=f"{_CLOUDFLARE} (2016, 2017, 2029); Portkey docs: guardrails (446); Helicone docs: prompt threats; LiteLLM docs",
    ),
    Signal(
        "portkey-usage-limit",
        Kind.QUOTA,
        status=(402, 403, 412, 429),
        words=("exhausted its usage limits",),
        scope=Scope.KEY,
        source="Portkey docs: budget limits (412)",
    ),
    # Ollama's cloud, MiniMax's and other plans with a quota for hours or weeks
    Signal(
        "plan-used-up",
        Kind.QUOTA,
        status=(402, 403, 429),
        words=("reached your * usage limit", "usage limit exceeded", "usage limit reached"),
        scope=Scope.POOL,
        source="Ollama: continuedev/continue#11444, continuedev/continue#9233; MiniMax docs: error codes",
    ),
    # IBM watsonx
    Signal(
        "watsonx-quota",
        Kind.QUOTA,
        code=("token_quota_reached",),
        scope=Scope.POOL,
        source="IBM watsonx.ai docs: error codes",
    ),
    # Tencent Hunyuan
    Signal(
        "hunyuan-no-money",
        Kind.QUOTA,
        code=("FailedOperation.*ResourcePackExhausted", "FailedOperation.ServiceStop*"),
        scope=Scope.POOL,
        source="Tencent Hunyuan docs: error codes",
    ),
    # StepFun
    Signal(
        "stepfun-filtered",
        Kind.CONTENT_FILTER,
        code=("censorship_blocked",),
        scope=Scope.REQUEST,
        source="StepFun docs: error codes (451)",
    ),
    # iFlytek Spark: errors inside a 200
    Signal("spark-no-money", Kind.QUOTA, code=("11200",), scope=Scope.POOL, source=_SPARK),
    Signal("spark-limit", Kind.RATE_LIMIT, code=("11202", "11203"), source=_SPARK),
    Signal(
        "spark-filtered",
        Kind.CONTENT_FILTER,
        code=("10013", "10014", "10019"),
        scope=Scope.REQUEST,
        source=_SPARK,
    ),
    Signal("spark-too-long", Kind.CONTEXT_LENGTH, code=("10907",), scope=Scope.REQUEST, source=_SPARK),
    # Baidu Qianfan: errors inside a 200
    Signal(
        "qianfan-day",
        Kind.RATE_LIMIT,
        words=("open api daily request limit reached",),
        wait=Wait(until=MIDNIGHT, zone=_SHANGHAI),
        source=_QIANFAN,
    ),
    Signal("qianfan-limit", Kind.RATE_LIMIT, words=("open api * request limit reached",), source=_QIANFAN),
    Signal(
        "qianfan-bad-key",
        Kind.AUTH,
        words=("access token invalid or no longer valid", "access token expired"),
        scope=Scope.KEY,
        source=_QIANFAN,
    ),
)
