"""Signals of the many vendors and gateways that speak another vendor's dialect: any of them may stand behind any dialect."""

from __future__ import annotations

from models.request import FailureKind as Kind
from models.request import FailureScope as Scope
from models.signals import MIDNIGHT, Signal, Wait

_LITELLM = "LiteLLM docs: budgets; OpenHands/benchmarks#229, BerriAI/litellm#14144 and #36729"
_OPENROUTER = "OpenRouter docs: errors"
_ZHIPU = "Z.AI docs: error codes"
_DASHSCOPE = "Alibaba Cloud Model Studio docs: error codes"
_MOONSHOT = "Moonshot AI docs: error codes"
_GROQ = "Groq docs: API error codes"
_MISTRAL = "Mistral docs: error codes"
_BEDROCK = "Amazon Bedrock docs: API error codes"
_MINIMAX = "MiniMax docs: error codes"
_BEIJING = 8.0

VENDORS: tuple[Signal, ...] = (
    # LiteLLM
    Signal("litellm-budget", Kind.QUOTA, type=("budget_exceeded",), scope=Scope.POOL, source=_LITELLM),
    Signal(
        "litellm-budget-in-words",
        Kind.QUOTA,
        words=("budget has been exceeded", "ExceededBudget", "crossed budget", "exceeded budget", "over budget"),
        scope=Scope.POOL,
        source=_LITELLM,
    ),
    Signal(
        "litellm-cooldown",
        Kind.RATE_LIMIT,
        status=(429,),
        words=("no deployments available",),
        scope=Scope.MODEL,
        source="LiteLLM docs: router cooldowns",
    ),
    # OpenRouter
    Signal("openrouter-flagged", Kind.CONTENT_FILTER, code=("flagged_input",), scope=Scope.REQUEST, source=_OPENROUTER),
    Signal(
        "openrouter-key-limit",
        Kind.QUOTA,
        status=(402, 403, 429),
        words=("key limit exceeded",),
        scope=Scope.KEY,
        source="OpenRouter docs: limits; RooCodeInc/Roo-Code#515",
    ),
    Signal(
        "openrouter-no-credits",
        Kind.QUOTA,
        status=(402,),
        words=("requires more credits", "insufficient credits", "more credits are required"),
        scope=Scope.POOL,
        source="OpenRouter docs: errors; anomalyco/opencode#12219",
    ),
    Signal(
        "openrouter-free-models",
        Kind.RATE_LIMIT,
        status=(429,),
        words=("free-models-per-",),
        scope=Scope.MODEL,
        source="OpenRouter docs: limits; cline/cline#5301",
    ),
    Signal(
        "openrouter-upstream-limit",
        Kind.RATE_LIMIT,
        status=(429,),
        words=("provider returned error", "rate-limited upstream"),
        scope=Scope.MODEL,
        source=_OPENROUTER,
    ),
    Signal(
        "openrouter-no-endpoint",
        Kind.MODEL,
        status=(400, 404),
        words=("no endpoints found for", "is not a valid model id", "no allowed providers are available"),
        scope=Scope.MODEL,
        source=_OPENROUTER,
    ),
    # Zhipu, Z.AI
    Signal(
        "zhipu-no-money",
        Kind.QUOTA,
        code=("1113",),
        scope=Scope.POOL,
        source="Z.AI docs: error codes; diegosouzapw/OmniRoute#12590",
    ),
    Signal(
        "zhipu-plan-used-up",
        Kind.QUOTA,
        code=("1308", "1309", "1310", "1316", "1317", "1318", "1319", "1320", "1321"),
        scope=Scope.POOL,
        hours_east=_BEIJING,
        source="Z.AI docs: error codes; hugalafutro/model-hotel#955, Yeachan-Heo/gajae-code#1821",
    ),
    Signal("zhipu-account", Kind.AUTH, code=("1110", "1111", "1112", "1121"), scope=Scope.POOL, source=_ZHIPU),
    Signal("zhipu-bad-key", Kind.AUTH, code=("1000", "1001", "1002", "1003", "1004"), scope=Scope.KEY, source=_ZHIPU),
    Signal("zhipu-no-model", Kind.MODEL, code=("1211",), scope=Scope.MODEL, source=_ZHIPU),
    Signal("zhipu-no-access", Kind.KEY_MODEL, code=("1220",), scope=Scope.MODEL, source=_ZHIPU),
    Signal("zhipu-too-long", Kind.CONTEXT_LENGTH, code=("1261",), source=_ZHIPU),
    Signal("zhipu-filtered", Kind.CONTENT_FILTER, code=("1300", "1301"), scope=Scope.REQUEST, source=_ZHIPU),
    Signal("zhipu-limit", Kind.RATE_LIMIT, status=(429,), code=("1302", "1303"), source=_ZHIPU),
    Signal(
        "zhipu-day",
        Kind.RATE_LIMIT,
        status=(429,),
        code=("1304",),
        wait=Wait(until=MIDNIGHT, zone="Asia/Shanghai"),
        source=_ZHIPU,
    ),
    Signal("zhipu-busy", Kind.RATE_LIMIT, status=(429,), code=("1305",), scope=Scope.MODEL, source=_ZHIPU),
    # Moonshot
    Signal(
        "moonshot-no-money",
        Kind.QUOTA,
        type=("exceeded_current_quota_error",),
        scope=Scope.POOL,
        source="Moonshot AI docs: error codes; anomalyco/opencode#24462",
    ),
    Signal(
        "moonshot-busy",
        Kind.RATE_LIMIT,
        status=(429,),
        type=("engine_overloaded_error",),
        scope=Scope.MODEL,
        source=_MOONSHOT,
    ),
    Signal(
        "moonshot-limit",
        Kind.RATE_LIMIT,
        status=(429,),
        type=("rate_limit_reached_error",),
        words=("organization max", "account * reached"),
        scope=Scope.POOL,
        source=_MOONSHOT,
    ),
    Signal(
        "moonshot-no-model",
        Kind.MODEL,
        status=(404,),
        type=("resource_not_found_error",),
        words=("not found the model",),
        scope=Scope.MODEL,
        source=_MOONSHOT,
    ),
    # Alibaba Cloud (DashScope, Model Studio)
    Signal("dashscope-arrears", Kind.QUOTA, code=("Arrearage",), scope=Scope.POOL, source=_DASHSCOPE),
    Signal("dashscope-free-tier", Kind.QUOTA, code=("AllocationQuota.*",), scope=Scope.MODEL, source=_DASHSCOPE),
    Signal(
        "dashscope-limit",
        Kind.RATE_LIMIT,
        code=("Throttling", "Throttling.*", "LimitRequests", "limit_requests", "limit_burst_rate"),
        scope=Scope.MODEL,
        source=_DASHSCOPE,
    ),
    Signal(
        "dashscope-filtered",
        Kind.CONTENT_FILTER,
        code=("data_inspection_failed", "DataInspectionFailed"),
        scope=Scope.REQUEST,
        source=_DASHSCOPE,
    ),
    Signal(
        "dashscope-no-access",
        Kind.KEY_MODEL,
        code=("AccessDenied.Unpurchased", "Model.AccessDenied", "model_access_denied"),
        scope=Scope.MODEL,
        source=_DASHSCOPE,
    ),
    Signal(
        "dashscope-no-model",
        Kind.MODEL,
        code=("ModelNotFound", "model_not_supported"),
        scope=Scope.MODEL,
        source="Alibaba Cloud Model Studio docs: error codes; Hugging Face docs: inference providers",
    ),
    Signal(
        "dashscope-too-long",
        Kind.CONTEXT_LENGTH,
        words=("range of input length should be",),
        source=_DASHSCOPE,
    ),
    # DeepSeek
    Signal(
        "deepseek-filtered",
        Kind.CONTENT_FILTER,
        status=(400,),
        words=("content exists risk",),
        scope=Scope.REQUEST,
        source="DeepSeek API: public reports of 400 'Content Exists Risk'",
    ),
    Signal(
        "deepseek-no-model",
        Kind.MODEL,
        status=(400,),
        words=("model not exist",),
        scope=Scope.MODEL,
        source="DeepSeek API docs: error codes",
    ),
    # Groq
    Signal(
        "groq-spend-limit",
        Kind.QUOTA,
        code=("blocked_api_access", "spend_limit_reached", "spend_limit_exceeded"),
        scope=Scope.POOL,
        source="Groq docs: spend limits",
    ),
    Signal(
        "groq-restricted",
        Kind.AUTH,
        code=("organization_restricted",),
        scope=Scope.POOL,
        source="Groq: songquanpeng/one-api#1764, crewAIInc/crewAI#783",
    ),
    Signal(
        "groq-capacity",
        Kind.SERVER,
        code=("capacity_exceeded",),
        scope=Scope.PROVIDER,
        source="Groq docs: flex processing",
    ),
    Signal("groq-no-model", Kind.MODEL, code=("model_decommissioned",), scope=Scope.MODEL, source=_GROQ),
    # Mistral
    Signal(
        "mistral-capacity",
        Kind.RATE_LIMIT,
        type=("service_tier_capacity_exceeded",),
        scope=Scope.MODEL,
        source=_MISTRAL,
    ),
    Signal(
        "mistral-no-model",
        Kind.MODEL,
        status=(400, 404, 422),
        code=("invalid_model",),
        scope=Scope.MODEL,
        source=_MISTRAL,
    ),
    # xAI
    Signal(
        "xai-no-money",
        Kind.QUOTA,
        words=("used all available credits", "run out of credits", "reached its monthly spending limit"),
        scope=Scope.POOL,
        source="xAI: continuedev/continue#10373 (429), warpdotdev/warp#14863 (403)",
    ),
    Signal(
        "xai-bad-key",
        Kind.AUTH,
        status=(400, 403),
        words=("incorrect api key provided", "invalid api key"),
        scope=Scope.KEY,
        source="xAI docs: error codes (400 for a wrong key)",
    ),
    Signal(
        "xai-flagged",
        Kind.CONTENT_FILTER,
        status=(403,),
        words=("content violates usage guidelines",),
        scope=Scope.REQUEST,
        source="xAI: public reports of 403 SAFETY_CHECK",
    ),
    # Fireworks, Together
    Signal(
        "fireworks-suspended",
        Kind.QUOTA,
        status=(400, 402, 403, 412, 429),
        words=("is suspended * spending limit", "is suspended * invoice", "reaching the monthly spending limit"),
        scope=Scope.POOL,
        source="Fireworks: FerroxLabs/wayland#545, theopenco/llmgateway#3838",
    ),
    Signal(
        "fireworks-no-model",
        Kind.MODEL,
        status=(404,),
        words=("model not found, inaccessible", "unable to access model"),
        scope=Scope.MODEL,
        source="Fireworks docs: error codes; Together docs: error codes",
    ),
    Signal(
        "together-too-long",
        Kind.CONTEXT_LENGTH,
        status=(400, 403, 422),
        words=("must be less than the context length",),
        source="Together docs: error codes (403)",
    ),
    # one-api, new-api and the gateways made from them
    Signal(
        "one-api-no-money",
        Kind.QUOTA,
        code=("insufficient_user_quota", "NOT_ENOUGH_BALANCE", "insufficient_balance"),
        scope=Scope.POOL,
        source="one-api: songquanpeng/one-api#1270; jiekou.ai docs: error codes",
    ),
    Signal(
        "one-api-key-quota",
        Kind.QUOTA,
        code=("pre_consume_token_quota_failed",),
        scope=Scope.KEY,
        source="one-api error codes",
    ),
    Signal(
        "one-api-filtered",
        Kind.CONTENT_FILTER,
        code=("sensitive_words_detected", "prompt_blocked"),
        scope=Scope.REQUEST,
        source="one-api error codes",
    ),
    # Amazon Bedrock's gateways
    Signal(
        "bedrock-throttled",
        Kind.RATE_LIMIT,
        words=("ThrottlingException", "too many tokens, please wait", "too many requests, please wait"),
        source=_BEDROCK,
    ),
    Signal(
        "bedrock-no-access",
        Kind.KEY_MODEL,
        words=("don't have access to the model", "not authorized to perform: bedrock"),
        scope=Scope.MODEL,
        source=_BEDROCK,
    ),
    Signal(
        "bedrock-no-model",
        Kind.MODEL,
        words=("model identifier is invalid", "on-demand throughput isn*t supported", "reached the end of its life"),
        scope=Scope.MODEL,
        source=_BEDROCK,
    ),
    Signal(
        "bedrock-not-ready",
        Kind.SERVER,
        code=("ModelNotReadyException", "ServiceUnavailableException"),
        source=_BEDROCK,
    ),
    # Cloudflare Workers AI
    Signal(
        "workersai-day",
        Kind.QUOTA,
        words=("daily free allocation",),
        scope=Scope.POOL,
        wait=Wait(until=MIDNIGHT),
        source="Cloudflare Workers AI docs: errors (3036)",
    ),
    Signal(
        "workersai-capacity",
        Kind.RATE_LIMIT,
        status=(429,),
        code=("3040",),
        scope=Scope.MODEL,
        source="Cloudflare Workers AI docs: errors (3040)",
    ),
    # Hugging Face
    Signal(
        "huggingface-credits",
        Kind.QUOTA,
        words=("exceeded your monthly included credits",),
        scope=Scope.POOL,
        source="Hugging Face: huggingface/agents-course#386",
    ),
    # GitHub Models
    Signal(
        "github-too-long",
        Kind.CONTEXT_LENGTH,
        code=("tokens_limit_reached",),
        source="GitHub Models: dyad-sh/dyad#1950",
    ),
    # MiniMax: a 200 without an answer, with its own status
    Signal("minimax-no-money", Kind.QUOTA, code=("base_resp:1008",), scope=Scope.POOL, source=_MINIMAX),
    Signal("minimax-limit", Kind.RATE_LIMIT, code=("base_resp:1002", "base_resp:1039"), source=_MINIMAX),
    Signal("minimax-bad-key", Kind.AUTH, code=("base_resp:1004", "base_resp:2049"), scope=Scope.KEY, source=_MINIMAX),
    Signal(
        "minimax-filtered",
        Kind.CONTENT_FILTER,
        code=("base_resp:1026", "base_resp:1027"),
        scope=Scope.REQUEST,
        source=_MINIMAX,
    ),
    Signal("minimax-bad-request", Kind.BAD_REQUEST, code=("base_resp:2013",), scope=Scope.REQUEST, source=_MINIMAX),
    # Volcengine, Qianfan
    Signal(
        "volcengine-arrears",
        Kind.QUOTA,
        code=("AccountOverdueError", "account_overdue", "InvalidAccountStatus"),
        scope=Scope.POOL,
        source="Volcengine Ark docs: error codes; Baidu Qianfan docs: error codes",
    ),
    Signal(
        "volcengine-limit",
        Kind.RATE_LIMIT,
        status=(429,),
        code=("SetLimitExceeded", "ServerOverloaded", "*RateLimitExceeded*"),
        scope=Scope.MODEL,
        source="Volcengine Ark docs: error codes",
    ),
    Signal(
        "volcengine-filtered",
        Kind.CONTENT_FILTER,
        code=("SensitiveContentDetected*", "InputTextSensitiveContentDetected*", "OutputTextSensitiveContentDetected*"),
        scope=Scope.REQUEST,
        source="Volcengine Ark docs: error codes",
    ),
)
