"""Templates of tools/make_template_goldens.py: written after the published ones of the model families (same
structure, tags and constructs, own words), and snippets, each of which is a template of its own."""

import re

TEMPLATES = {}

TEMPLATES["chatml"] = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

TEMPLATES["llama2"] = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must go user, assistant, user, assistant') }}{% endif %}{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'system' %}{{ '<<SYS>>\\n' + content.strip() + '\\n<</SYS>>\\n\\n' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""

TEMPLATES["llama3"] = """{% set rest = messages %}{% for message in rest %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

TEMPLATES["llama3_1"] = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message goes first. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\\n\\n"}}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "Functions you may call:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("There is no first user message for the tools!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- "Answer with a call in JSON if a function helps.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("Only one call at a time!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

TEMPLATES["mistral_v1"] = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must take turns') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles!') }}{% endif %}{% endfor %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{#- User and assistant take turns, tools aside. #}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("Roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS]SP[" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
            {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]SP" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]SP" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS]SP[" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- "SP" + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS]SP{"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""
TEMPLATES["mistral_v3"] = MISTRAL.replace("SP", " ")
TEMPLATES["mistral_nemo"] = MISTRAL.replace("SP", "").replace('message["content"]|trim', 'message["content"]')
TEMPLATES["mistral_v2"] = """{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}{%- set messages = messages[1:] -%}{%- endif -%}{{ bos_token }}{%- for m in messages -%}{%- if m.role == 'user' -%}{{ '[INST] ' ~ (system ~ '\\n\\n' if loop.first and system is defined else '') ~ m.content ~ '[/INST]' }}{%- else -%}{{ ' ' ~ m.content ~ eos_token }}{%- endif -%}{%- endfor -%}"""

TEMPLATES["qwen2"] = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content']}}{% if (loop.last and add_generation_prompt) or not loop.last %}{{ '<|im_end|>' + '\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

QWEN_TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nFunctions, one a line, within <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n\\nCall with <tool_call>\\n{\\"name\\": <name>, \\"arguments\\": <json>}\\n</tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
"""
TEMPLATES["qwen2_5"] = QWEN_TOOLS + """{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
TEMPLATES["qwen3"] = QWEN_TOOLS + """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

TEMPLATES["smollm2"] = """{%- set standing = 'You speak for a small model.' %}
{%- for m in messages %}
{%- if loop.index0 == 0 and m.role != 'system' %}{{ '<|im_start|>system\\n' ~ standing ~ '<|im_end|>\\n' }}{%- endif %}
{{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

TEMPLATES["smollm3"] = """{# defaults #}
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- if enable_thinking -%}{%- set reasoning_mode = "/think" -%}{%- else -%}{%- set reasoning_mode = "/no_think" -%}{%- endif -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}{%- set reasoning_mode = "/no_think" -%}{%- endif -%}
  {%- set custom_instructions = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{%- set today = date_string if date_string is defined else "01 January 2025" -%}
{{- "## Metadata\\n\\nToday Date: " ~ today ~ "\\nReasoning Mode: " + reasoning_mode + "\\n\\n" -}}
{%- if custom_instructions -%}{{- custom_instructions + "\\n\\n" -}}{%- endif -%}
{%- if tools -%}
  {%- set ns = namespace(xml="<tools>\\n") -%}
  {%- for tool in tools -%}{%- set ns.xml = ns.xml ~ (tool | string) ~ "\\n" -%}{%- endfor -%}
  {{- ns.xml ~ "</tools>\\n" -}}
{%- endif -%}
{{- "<|im_end|>\\n" -}}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>user\\n"  + content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {%- if reasoning_mode == "/think" -%}
            {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endif -%}
        {% endgeneration %}
    {%- elif message.role == "tool" -%}
        {{ "<|im_start|>" + "user\\n"  + content + "<|im_end|>\\n" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ "<|im_start|>assistant\\n" if reasoning_mode == "/think" else "<|im_start|>assistant\\n<think>\\n\\n</think>\\n" }}
{%- endif -%}"""

TEMPLATES["gemma2"] = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

TEMPLATES["gemma3"] = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

TEMPLATES["phi3"] = """{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
TEMPLATES["phi4_mini"] = """{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"""
TEMPLATES["phi4"] = """{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""

TEMPLATES["granite"] = """{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = "Knowledge Cutoff Date: April 2024.\\n" %}{%- if tools and documents %}{%- set system_message = system_message + " Tools and documents." %}{%- elif tools %}{%- set system_message = system_message + " You have tools." %}{%- endif %}{%- set loop_messages = messages %}{%- endif %}{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}
{%- if tools %}{{- '<|start_of_role|>tools<|end_of_role|>' }}{{- tools | tojson(indent=4) }}{{- '<|end_of_text|>\\n' }}{%- endif %}
{%- if documents %}{%- for document in documents %}{{- 'Document ' + loop.index0 | string + '\\n' + document['text'] }}{%- if not loop.last %}{{- '\\n\\n'}}{%- endif %}{%- endfor %}{%- endif %}
{%- for message in loop_messages %}{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}{%- if controls %}{{- ' ' + controls | tojson()}}{%- endif %}{{- '<|end_of_role|>' }}{%- endif %}{%- endfor %}"""

TEMPLATES["olmo2"] = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\\n'  + message['content'] + eos_token + '\\n' }}{% else %}{{ '<|assistant|>\\n'  + message['content'] + eos_token }}{% endif %}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"""

TEMPLATES["deepseek"] = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and 'tool_calls' in message %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls'] %}{%- if not ns.is_first %}{{'<｜Assistant｜><｜tool▁calls▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\\n```json\\n' + tool['function']['arguments']|string + '\\n```'}}{%- set ns.is_first = true -%}{%- else %}{{'\\n' + tool['function']['name']}}{%- endif %}{%- endfor %}{{'<｜end▁of▁sentence｜>'}}{%- elif message['role'] == 'assistant' %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<｜tool▁outputs▁begin｜>' ~ message['content']}}{%- set ns.is_output_first = false %}{%- else %}{{'\\n' ~ message['content']}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<｜tool▁outputs▁end｜>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"""

TEMPLATES["zephyr"] = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
TEMPLATES["tinyllama"] = TEMPLATES["zephyr"].replace("\n{% if loop.last", "\n\n{% if loop.last")

TEMPLATES["vicuna"] = """{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] ~ ' ' %}{% set messages = messages[1:] %}{% else %}{% set system = 'A chat between a user and an assistant. ' %}{% endif %}{{ system }}{% for m in messages %}{{ {'user': 'USER: ', 'assistant': 'ASSISTANT: '}[m.role] ~ m.content ~ (eos_token if m.role == 'assistant' else ' ') }}{% endfor %}{{ 'ASSISTANT:' if add_generation_prompt }}"""

TEMPLATES["command_r"] = """{{ bos_token }}{%- macro type_of(p) -%}{% if p.type == 'string' %}str{% elif p.type == 'array' %}List[{{ type_of(p['items']) }}]{% elif p.type is defined %}{{ {'integer': 'int', 'number': 'float'}.get(p.type, p.type) }}{% else %}Any{% endif %}{%- endmacro -%}
{%- macro signature(tool) -%}
def {{ tool.name }}({% for name, p in tool.parameters.properties.items() %}{{ name }}: {{ type_of(p) }}{% if name not in tool.parameters.required %} = None{% endif %}{{ ', ' if not loop.last }}{% endfor %}):
    {{ tool.description | indent(4) }}
{%- endmacro -%}
{%- if messages[0]['role'] == 'system' %}{%- set loop_messages = messages[1:] %}{%- set system_message = messages[0]['content'] %}{%- else %}{%- set loop_messages = messages %}{%- set system_message = false %}{%- endif %}
{%- if system_message != false or tools -%}
{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + (system_message or 'Be useful.') }}
{%- for tool in tools or [] %}

{{ signature(tool.function) }}
{%- endfor -%}
{{ '<|END_OF_TURN_TOKEN|>' }}
{%- endif -%}
{%- for message in loop_messages %}
{%- set content = message['content'] %}
{%- if message['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- elif message.role|lower == 'tool' %}{{ '<results>\\n' ~ (content if content is string else content | tojson(indent=2)) ~ '</results>' }}
{%- elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + (content or '') | trim }}{% for call in message.tool_calls or [] %}{% set args = call.function.arguments %}{{ '\\nAction: ' ~ {'tool_name': call.function.name, 'parameters': args} | tojson(indent=4) }}{% endfor %}{{ '<|END_OF_TURN_TOKEN|>' }}
{%- else %}{{ raise_exception('Unknown role: ' + message.role) }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}"""

TEMPLATES["alpaca"] = """{{ (messages|selectattr('role', 'equalto', 'system')|list|last).content|trim if (messages|selectattr('role', 'equalto', 'system')|list) else '' }}
{% for message in messages if message.role != 'system' %}
{%- filter trim %}
### {{ {'user': 'Instruction', 'assistant': 'Response'}.get(message.role, message.role | title) }}:
{{ message.content if message.content is string else message.content | selectattr('type', 'eq', 'text') | map(attribute='text') | join(' ') }}
{% endfilter %}


{% endfor %}
{% if add_generation_prompt %}
### Response:
{% endif %}"""

SNIPPETS = """
{{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }}
{{ 1.0 }} {{ 1e16 }} {{ 1.5e-7 }} {{ 123456789.123 }} {{ 0.1 + 0.2 }} {{ 1e15 }} {{ 100.0 }} {{ 1e100 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }}
{{ true }} {{ none }} {{ false or 'x' }} {{ 0 and 1 }} {{ not 0 }} {{ true + 1 }} {{ -true }}
{{ 'a' ~ 1 ~ none ~ 2.0 }} {{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ 3 * 'ab' }} {{ [1] * 2 + [3] }} {{ (1, 2) + (3,) }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 5 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 == 1.0 == true }} {{ 'a' == 1 }}
{{ 1 in l }} {{ 5 not in l }} {{ 'ell' in s }} {{ 'b' in d }} {{ '' in s }} {{ 'x' in undef }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[:-3] }} {{ s[-3:] }} {{ s[::2] }} {{ s[10:2:-2] }} {{ u[1:4] }} {{ u[-1] }} {{ s[99] }}|
{{ l[1:] }} {{ l[::-1] }} {{ l[-2:] }} {{ l[5:] }} {{ l[:0] }} {{ (1, 2, 3)[1:] }} {{ range(10)[2:5] }} {{ l[99] is defined }}
{{ d.b }} {{ d['b'] }} {{ d.a[1].c }} {{ d.items() }} {{ d['items'] }} {{ d.get('q') }} {{ d.get('q', 3) }} {{ d.keys() }} {{ d.values() | list }}
{{ d }} {{ l }} {{ [s, u, w] }} {{ {'k': (1,)} }} {{ () }} {{ {} }} {{ [] }}
{{ undef }}|{{ d.nope }}|{{ undef is defined }}|{{ d.nope is undefined }}
{{ undef.x }}
{{ undef + 1 }}
{{ undef() }}
{{ d.nope.x }}
{{ none.x }}
{{ none.x.y }}
{{ undef | length }}{{ undef | list }}{{ undef | upper }}{{ undef | join(',') }}{% for x in undef %}x{% else %}none{% endfor %}
{{ undef == undef2 }} {{ undef != 1 }} {{ undef | default('dd') }} {{ '' | default('e', true) }} {{ none | d(4) }} {{ none | default('n', boolean=true) }}
{{ 'a' if t }} {{ 'a' if not t }}| {{ 'a' if false else 'b' if false else 'c' }}
{{ ('a' if false).x }}
{{ s.upper() }} {{ s.lower() }} {{ s.title() }} {{ s.swapcase() }} {{ u.upper() }} {{ u.title() }} {{ 'hELLO wORLD'.capitalize() }} {{ "they're bill's".title() }} {{ "ΑΣ ΣΑ Σ".lower() }} {{ 'İ'.lower() }} {{ 'ﬁx'.upper() }}
[{{ w.strip() }}] [{{ w.lstrip() }}] [{{ w.rstrip() }}] {{ 'xxaxx'.strip('x') }} {{ 'abcba'.lstrip('ab') }} {{ 'abc'.rstrip('') }} {{ w.strip(none) }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b c'.rsplit(' ', 1) }} {{ ' a  b c '.split(none, 1) }} {{ ' a  b c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }}
{{ 'abc'.split('') }}
{{ 'a\\nb\\r\\nc\\n'.splitlines() }} {{ 'a\\nb'.splitlines(true) }} {{ ''.splitlines() }} {{ 'a\\x0bb\\u2028c'.splitlines() }}
{{ s.startswith('He') }} {{ s.endswith(('x', 'ld')) }} {{ s.startswith('W', 6) }} {{ s.find('o') }} {{ s.find('o', 5) }} {{ s.rfind('o') }} {{ s.find('zz') }} {{ u.find('日') }} {{ s.count('l') }} {{ s.count('') }} {{ s.index('W') }}
{{ s.index('zz') }}
{{ s.startswith(1) }}
{{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ 'abc'.replace('', '-') }} {{ 'aaa'.replace('aa', 'b') }} {{ u.replace('ü', 'UE') }}
{{ ', '.join(['a', 'b']) }} {{ '-'.join('abc') }} {{ ''.join([]) }}
{{ ', '.join([1]) }}
{{ 'a{}b{}'.format(1, 'x') }} {{ '{0}{1}{0}'.format('a', 'b') }} {{ '{x}'.format(x=5) }} {{ '{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}'.format('a', 'b', 'c', 42, 3.14159, 1234567) }} {{ '{{}}'.format() }} {{ '{!r}'.format('a') }} {{ '{:x}'.format(255) }}
{{ '{}'.format() }}
{{ '%s and %d and %5.2f%%' % ('a', 3, 2.5) }} {{ '%s' % 'x' }} {{ '%(k)s' % {'k': 1} }} {{ '%05d|%-5s|%x' % (42, 'ab', 255) }} {{ '%r' % 'q' }} {{ '%s' % [1] }}
{{ '%d' % 'x' }}
{{ '%s %s' % 'x' }}
{{ '%s' % ('x', 'y') }}
{{ 'abc'.isalpha() }} {{ '12'.isdigit() }} {{ ''.isdigit() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ '1'.islower() }}
{{ 'pre-x'.removeprefix('pre-') }} {{ 'x.y'.removesuffix('.y') }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }}
{{ l | sort }} {{ l | sort(reverse=true) }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true) }} {{ rows | sort(attribute='name') | map(attribute='name') | list }} {{ rows | sort(attribute='v,name') | map(attribute='name') | join }}
{{ [1, 'a'] | sort }}
{{ l | first }} {{ l | last }} {{ e | first }}| {{ s | first }} {{ s | last }} {{ d | first }} {{ e | last is defined }}
{{ l | length }} {{ s | count }} {{ u | length }} {{ d | length }} {{ range(5) | length }}
{{ 5 | length }}
{{ l | join }} {{ l | join('-') }} {{ rows | join(',', attribute='name') }} {{ l | join(d='+') }} {{ [1, none, 'x', 2.0] | join(' ') }}
{{ l | map('string') | list }} {{ ['a ', ' b'] | map('trim') | list }} {{ rows | map(attribute='z.y', default=0) | list }} {{ [[1, 2], [3, 4]] | map(attribute=1) | list }} {{ ['a'] | map('upper') | first }} {{ l | map('default', 3) | list }} {{ [1.7, 2.2] | map('int') | list }}
{{ l | select('odd') | list }} {{ l | reject('odd') | list }} {{ [0, 1, ''] | select | list }} {{ rows | selectattr('v', 'equalto', 2) | map(attribute='name') | list }} {{ rows | rejectattr('z', 'defined') | list | length }} {{ rows | selectattr('z') | list | length }} {{ l | select('gt', 1) | list }} {{ rows | selectattr('name', 'in', ['b', 'c']) | list | length }} {{ rows | selectattr('v', '==', 2) | list | length }}
{{ l | select('nope') | list }}
{{ [1, 2, 1, 'a', 'A'] | unique | list }} {{ l | reverse | list }} {{ s | reverse }} {{ l | sum }} {{ rows | sum(attribute='v') }} {{ [1, 2] | sum(start=5) }} {{ l | min }} {{ l | max }} {{ ['b', 'A'] | min }} {{ e | max }}|
{{ rows | groupby('v') }} {{ rows | groupby('v') | map(attribute='grouper') | list }} {{ rows | groupby('v') | map(attribute='list') | map('length') | list }} {{ [] | groupby('x') }} {{ [['b', 1], ['B', 2], ['a', 3]] | groupby(0) }} {{ [['b', 1], ['B', 2], ['a', 3]] | groupby(0, case_sensitive=true) }} {{ rows | groupby('z.y', default=7) | length }} {{ rows | groupby('name', none, true) | map('first') | join }} {{ (rows | groupby('v'))[0].grouper }} {{ (rows | groupby('v'))[1]['list'] | length }} {{ (rows | groupby('v'))[0].nope is defined }}
{{ rows | groupby('z.y') }}
{{ rows | groupby }}
{% for v, g in rows | groupby('v') %}{{ v }}:{% for r in g %}{{ r.name }}{% endfor %};{% endfor %}{% for g in rows | groupby('v') %}{{ g.grouper }}={{ g.list | length }} {% endfor %}
{{ 'foo bar baz qux' | truncate(9) }}| {{ 'foo bar baz qux' | truncate(9, true) }}| {{ 'foo bar baz qux' | truncate(11) }}| {{ 'foo bar baz qux' | truncate(11, false, '...', 0) }}| {{ 'foo bar baz qux' | truncate(7, end='…', leeway=0) }}| {{ 'äöü ß 日本 x' | truncate(5, true, '', 0) }}| {{ 'nospaceatall' | truncate(6, leeway=0) }}| {{ '' | truncate }}| {{ l | truncate }}| {{ undef | truncate }}| {{ ('a ' * 200) | truncate | length }}| {{ 'a b' | truncate(3, leeway=0) }}| {{ 'abcdef' | truncate(3, leeway=0) }}|
{{ 'abc' | truncate(2) }}
{{ 'abc' | truncate(9, leeway=-1) }}
{{ 5 | truncate }}
{{ 'The quick brown fox jumped over the lazy dog' | wordwrap(10) }}| {{ 'well-known mother-in-law e-mail a-b x--y z-- --w 3-4 foo-3 é-ü ab-cd-ef' | wordwrap(6) }}| {{ 'well-known mother-in-law' | wordwrap(6, break_on_hyphens=false) }}| {{ 'abcdefghij klm' | wordwrap(4) }}| {{ 'abcdefghij klm' | wordwrap(4, false) }}| {{ '   lead\\n\\n  x   y \\r\\nz  ' | wordwrap(3) }}| {{ 'ab xxxxxxxx' | wordwrap(3) }}| {{ 'a b' | wordwrap(1, true, '<br>') }}| {{ '' | wordwrap }}| {{ 'aaa-bbbbbbbbb---ccc' | wordwrap(5) }}| {{ '日本語 日本 語' | wordwrap(2) }}| {{ 'a\\tb\\x0bc\\u00a0d' | wordwrap(2) }}| {{ 'q----w -- e---- ----r' | wordwrap(2) }}| {{ "it's--\\"so\\" yes--no. a.--b" | wordwrap(5) }}| {{ ('x' * 30 ~ ' ' ~ 'y-' * 9) | wordwrap(7) }}| {{ '\\u00a0\\u00a0\\u00a0 a' | wordwrap(2) }}| {{ '-a -b- --c d-' | wordwrap(1) }}| {{ 'a½-b²c a_-b1-2c' | wordwrap(3) }}
{{ 'abc' | wordwrap(0) }}
{{ 5 | wordwrap }}
{{ undef | wordwrap }}
{{ 'a b/c?d=é&~_.-x%+' | urlencode }} {{ {'a b': 'c/d', 'e': 1, 'é': none} | urlencode }} {{ [('k', 'v v'), ('x', [1])] | urlencode }} {{ 5 | urlencode }} {{ undef | urlencode }}| {{ none | urlencode }} {{ '' | urlencode }}| {{ 1.5 | urlencode }} {{ [] | urlencode }}|
{{ [1] | urlencode }}
{{ ['abc'] | urlencode }}
{{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ '+'.zfill(2) }} {{ 'x'.zfill(0) }} {{ '日'.zfill(3) }} {{ 'ab'.ljust(5) }}| {{ 'ab'.rjust(5, '.') }} {{ 'ab'.center(5, '*') }} {{ 'abc'.center(6) }}| {{ 'ab'.ljust(1) }} {{ '日'.rjust(3, '本') }} {{ 'a\\tbc\\td\\n\\te'.expandtabs() }} {{ 'a\\tb'.expandtabs(4) }} {{ 'a\\tb'.expandtabs(0) }} {{ '日\\tb'.expandtabs(tabsize=3) }}
{{ 'a'.ljust(3, 'ab') }}
{{ 'a'.ljust(3, '') }}
{{ 'a'.zfill() }}
{{ 'a'.center('x') }}
{{ 'abcabc'.rindex('b') }} {{ 'Straße ﬁ ΑΣ'.casefold() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '٣'.isdigit() }} {{ '٣'.isdecimal() }} {{ '½'.isdigit() }} {{ '½'.isalnum() }} {{ '①'.isdigit() }} {{ 'aé'.isascii() }} {{ ''.isascii() }} {{ 'ab'.isascii() }} {{ '一'.isalnum() }} {{ ''.isdecimal() }}
{{ 'abc'.rindex('z') }}
{{ d | items | list }} {{ d | dictsort }} {{ {'b': 1, 'A': 2} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(true) }} {{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }} {{ undef | items | list }}
{{ [1] | items | list }}
{{ l | batch(2) | list }} {{ l | batch(2, 0) | list }} {{ [1, 2, 3, 4, 5] | slice(2) | list }} {{ [1, 2, 3] | slice(2, 'x') | list }}
{{ d | tojson }} {{ d | tojson(indent=2) }} {{ u | tojson }} {{ u | tojson(ensure_ascii=true) }} {{ d | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ [] | tojson(indent=2) }} {{ [1.0, 1e20, none, true, 'a"\\\\/\\n\\t\\x01\\x7f<>&'] | tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }} {{ (1, 2) | tojson }} {{ '\U0001f600' | tojson(true) }} {{ d | tojson(indent='--') }} {{ [[1]] | tojson(indent=0) }} {{ [1, 2] | tojson(indent=2, separators=(';', '=')) }}
{{ undef | tojson }}
{{ range(3) | tojson }}
{{ '3' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ ' 42 ' | int }} {{ 3.99 | int }} {{ '3.7' | int }} {{ 'ff' | int(base=16) }} {{ '0x1f' | int(0, 16) }} {{ none | int }} {{ true | int }} {{ '1_000' | int }} {{ '3.5' | float }} {{ 'x' | float }} {{ 2 | float }} {{ '1e3' | float }} {{ [] | int(5) }} {{ 'inf' | float }} {{ '-5' | int }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 2.1 | round(method='ceil') }} {{ 2.9 | round(0, 'floor') }} {{ 7 | round }} {{ -3 | abs }} {{ -2.5 | abs }} {{ 1.25 | round(1) }}
{{ 'hello world-foo (bar)' | title }} {{ 'HELLO' | capitalize }} {{ s | upper }} {{ s | lower }} {{ 5 | upper }} {{ w | trim }}| {{ 'xax' | trim('x') }} {{ 5 | trim }}
{{ 'a\\nb\\n\\nc' | indent }} | {{ 'a\\nb' | indent(2, true) }} | {{ 'a\\n\\nb' | indent(2, blank=true) }} | {{ 'a\\nb' | indent('> ') }} | {{ '' | indent(4, true) }}
{{ 'abc' | replace('b', 'x') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 123 | replace(2, 'x') }} {{ 'ab' | center(7) }}| {{ 'abc' | center(6) }}| {{ 'a b-c d' | wordcount }} {{ '%s-%s' | format(1, 2) }} {{ 'abc' | list }} {{ d | list }} {{ 'x' | string }} {{ [1] | string }}
{{ '<a>&"' | escape }} {{ '<' | e | e }} {{ ('<' | safe) + '<' }} {{ '<b>' | safe }} {{ '<' | forceescape }} {{ ('<' | e) ~ '<' }}
{{ 1 | nope }}
{{ 1 is nope }}
{% if false %}{{ 1 | nope }}{% endif %}ok
{{ 5 is number }} {{ '5' is string }} {{ d is mapping }} {{ l is sequence }} {{ d is sequence }} {{ s is iterable }} {{ 5 is iterable }} {{ true is number }} {{ true is integer }} {{ 5 is integer }} {{ 5.0 is float }} {{ true is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ none is none }} {{ x is none }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 2 is gt 1 }} {{ 2 is ge 2 }} {{ 1 is le 0 }} {{ 1 is in [1] }} {{ range is callable }} {{ 5 is callable }} {{ 'a' is lower }} {{ 'A' is upper }} {{ none is sameas none }} {{ 1 is not odd }} {{ x is not defined or t }}
{{ range(3) }} {{ range(1, 7, 2) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }} {{ range(3)[-1] }} {{ 2 in range(3) }}
{{ range(1, 2, 0) }}
{{ range(1000000) }}
{{ range('a') }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}{{ loop.cycle('a', 'b') }}{{ loop.changed(i > 1) }};{% endfor %}
{% for i in l if i > 1 %}{{ loop.index }}:{{ i }} {% else %}none{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [1, 2] %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for i in 5 %}{% endfor %}
{% for i in none %}{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% break %}
{% for i in [1, 2, 3] %}{{ y }};{% set y = i %}{% endfor %}{{ y }}
{% set a = 1 %}{% for i in [1, 2, 3] %}{% set a = a + 1 %}{{ a }};{% endfor %}{{ a }}
{% set ns = namespace(c=0, found=false) %}{% for i in l %}{% set ns.c = ns.c + i %}{% endfor %}{{ ns.c }} {{ ns }} {{ ns.nope }}| {{ ns['c'] }}
{% set ns.x = 1 %}
{% set q = 1 %}{% set q.x = 1 %}
{{ namespace(_x=1) }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}{% set (m, n2) = [3, 4] %}{{ m }}{{ n2 }}
{% set a %}x{{ 1 + 1 }}y{% endset %}{{ a }}{{ a | length }}{% set b | upper | replace('A', 'B') %}abc{% endset %}{{ b }}
{% macro f(a, b=2, c=a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(a=5, c=6) }}{{ f() }}{{ f(*[1, 2, 3]) }}{{ f(**{'a': 9}) }}{{ f }}
{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{% endmacro %}{{ f(q=2) }}
{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}
{% macro f(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) f(4) %}got {{ y }}{% endcall %}{% call f(5) %}no{% endcall %}
{% macro f() %}x{% endmacro %}{% call f() %}a{% endcall %}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro f() %}{{ q }}{% endmacro %}{% set q = 1 %}{{ f() }}{% set q = 2 %}{{ f() }}
{% for x in [{'v': 1, 'c': [{'v': 2, 'c': []}]}] recursive %}{{ x.v }}@{{ loop.depth }}{{ loop(x.c) }}{% endfor %}
{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a', 'b') | trim %} aaa {% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}
{% generation %}{{ s }}{% set k = 1 %}{% endgeneration %}{{ k }}
{% if 0 %}a{% elif '' %}b{% elif [] %}c{% elif {} %}d{% elif 0.0 %}e{% elif none %}f{% else %}g{% endif %}
{% raw %}{{ x }} {% if %}{% endraw %} {# comment {{ }} #}after
a {%- if t %} b {%- endif %} c {{- s -}} d {#- x -#} e
{% print 1, 2 %}
{{ {'a': {'b': {'c': 1}}}.a.b.c }}{{ {'a': 1}['a'] }}{{ [[1, 2], [3]][0][1] }}{{ {1: 'x'}[1] }}
{{ 'a' 'b' "c" }} {{ '\\'' }} {{ "\\x41\\u00e9\\t|" }} {{ '\\q' }} {{ 1_000 }} {{ 0x1f }} {{ 0b11 }} {{ 0o17 }} {{ 1_0.5 }}
{{ "a'b" }} {{ ["a'b", 'a"b', 'a\\'b"c', 'é\\n\\u200b\\x00'] }}
{{ d.pop('b') }}
{{ l.append(1) }}
{{ d.update({'x': 1}) }}
{{ s.__class__ }}|{{ d.__class__ }}|
{{ s.__class__.__mro__ }}
{{ cycler('a', 'b').next() }}{% set j = joiner(', ') %}{{ j() }}a{{ j() }}b{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}
{{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict({'a': 1}, b=3) }}
{{ raise_exception('Custom: ' ~ n) }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 'a' + 1 }}
{{ 1 < 'a' }}
{{ [1] + (2,) }}
{{ -'a' }}
{{ 5() }}
{{ l['a'] }}|{{ s['upper']() }}
{{ 1 if }}
{{ ( }}
{% if t %}
{% endif %}
{% unknown %}
{{ 'abc }}
{{ 1 ! 2 }}
{# open
{% raw %} open
{{ }}
{% for in x %}{% endfor %}
{{ a b }}
{{ d.1 }}|{{ l.0 }}
{{ f(a=1, 2) }}
{{ messages[0]['role'] }} {{ messages[-1].content }} {{ messages | length }} {{ messages[1:] | map(attribute='role') | join(',') }} {{ (messages | selectattr('role', 'equalto', 'user') | list)[0].content }}
{% set m = messages | selectattr('role', 'eq', 'assistant') | list %}{{ m | length }}{{ m[0].content | trim }}
{{ t and 'yes' or 'no' }} {{ (1, 2) == (1, 2) }} {{ [1] == (1,) }} {{ {'a': 1} == {'a': 1.0} }} {{ 'a' in 'abc' and 1 not in [] }}
{{ 10 | string | length }} {{ -1 | abs }} {{ 1 + -1 | abs }} {{ 2 * 3 ~ 'x' }} {{ 1 ~ 2 + 3 }} {{ not true == false }} {{ not 1 in [1] }}
{{ s | length > 3 and s is string }} {{ 'x' if s is defined and s is not none else 'y' }} {{ n is odd and n > 5 }}
{{ 5.5 // 2 }} {{ -5.5 // 2 }} {{ 5.5 % 2 }} {{ -5.5 % 2 }} {{ 5 % -3 }} {{ 1e308 * 10 }} {{ 3 - 5.0 }} {{ 7 // 2.0 }}
{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools }}{{ documents }}
{{ u | tojson }}{{ '日本'[0] }}{{ '日本' | reverse }}{{ '日本' | list }}{{ '日'.encode }}|
{{ rows | map(attribute='name') | map('lower') | sort | join('|') }}
{{ (rows | first).name }} {{ rows[0].name ~ rows[-1]['name'] }} {{ rows | selectattr('z.y', 'defined') | map(attribute='z.y') | list }}
{% for r in rows %}{% for k in r %}{{ k }}{{ loop.last }}{% if not loop.last %},{% endif %}{% endfor %};{% endfor %}
{% for r in rows | sort(attribute='name') %}{{ loop.index }}{{ r.name }}{% endfor %}{% for x in 'abc' %}{{ x }}.{% endfor %}{% for x in (1, 2) %}{{ x }}{% endfor %}{% for x in 1, 2 %}{{ x }}{% endfor %}
{{ 8.63 // 0.1 }} {{ 2.28 // 0.7 }} {{ (-1) ** 3 }} {{ (-1) ** 4 }} {{ 0 ** 0 }} {{ 4.0 % -2.0 }} {{ -4.0 % 2.0 }} {{ (-9223372036854775807 - 1) % -1 }}
{{ 3 > 1 < 2 }} {{ 1 > 2 < 3 }} {{ ('nan' | float) < 1 }} {{ 1 >= ('nan' | float) }} {{ 'y' if 'nan' | float }} {{ 'ab' < 'abc' }} {{ 'abc' > 'ab' }}
{{ 1 in 'a1' }}
{{ {1: 1}.keys() == {1: 1}.values() }} {{ {1: 1}.keys() == {1: 1}.keys() }} {{ range(0, 1, 2) == range(0, 1, 3) }} {{ range(0, 5, 2) == range(0, 5, 3) }} {{ range(0, 10, 3) }}
{% set g = l | map('string') %}{{ g | first }}{{ g | list }}
{{ [[1, 2], [3, 4]] | map(attribute='1') | list }} {{ d | attr('b') is defined }} {{ d | attr('b') }}| {{ rows | sort(attribute='v', reverse=true) | map(attribute='name') | join }}
{{ [{'k': 'B'}, {'k': 'b'}, {'k': 'a'}] | groupby('k') | map('first') | list }} {{ ['b', 'B'] | max }} {{ ['b', 'B'] | min }}
{{ 1000000000000000.5 | round }} {{ 1000000000000000.375 | round(1) }} {{ 1e300 | round }} {{ -2.5 | round(0, 'floor') }} {{ -2.5 | round(0, 'ceil') }} {{ -2.5 | round }} {{ '1__2' | int(7) }} {{ '1_' | float(7) }}
{{ 'ab\\rc\\td'.expandtabs(4) }} {{ 'aaa,--bbb' | wordwrap(5) }} {{ '--abcdefgh' | wordwrap(4) }} {{ 'a\\x1eb\\x1cc\\x1d'.splitlines() }}
{{ 'abc'.find('', 5, 99) }} {{ 'abcabc'.find('b', -2) }} {{ 'abc'.endswith('abc', 1) }} {{ 'abc'.rpartition('x') }} {{ 'abc'.partition('x') }}
{{ ['\\x85', '\\x7f', '\\xa0', '\\xad'] }} {{ '\\x7f~\\x80' | tojson(ensure_ascii=true) }} {{ '\\x7f~\\x80' | tojson }} {{ '\\101\\1012' }}
{{ '%-05d|' % 3 }} {{ '%0-5d|' % 3 }} {{ '%+ d' % 3 }} {{ '% +d' % 3 }} {{ '% 05d' % 3 }} {{ '{:^6}|'.format('abc') }} {{ '{:5}|'.format(true) }} {{ '{:}|{}|{:d}'.format(true, false, true) }} {{ '{:>6}|'.format(false) }}
{% set c = cycler(1, 2, 3) %}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}
{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% macro m() %}{{ kwargs }}{{ caller() }}{% endmacro %}{% call m(x=1) %}c{% endcall %}
{% for x in l %}{{ x }}{{ loop | list | length }}{{ loop.index }}{% endfor %}
""".strip("\n").split("\n")
SNIPPETS = [line.replace("\\U0001f600", "\U0001f600") for line in SNIPPETS]
for _line in list(SNIPPETS):  # each expression also alone
    if "{%" not in _line and _line.count("{{ ") > 1:
        SNIPPETS += re.findall(r"\{\{ .*? \}\}", _line)
SNIPPETS = list(dict.fromkeys(SNIPPETS))
SNIPPETS += [
    "a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "a\n  {%+ if t %}\n  b\n  {%- endif +%}\nc\n\n",
    "  {# c #}\n x {# d #} \n", "a  \n  {{- s }}  \n {{ s -}} \n b", "{% if t -%}  \n  x  \n  {%- endif %}\n",
    "{% raw -%}\n  {{ x }}\n{%- endraw %}\n!", "  {% raw %}\n {{ x }}\n  {% endraw %}\n!", "x\r\ny\rz\n{% if t %}\r\nq{% endif %}",
    "{% set x = 5 %}\n\n{{ x }}\n", "{%- for i in l -%}\n {{ i }}\n{%- endfor -%}", "{{\n  s\n}}\n{%\n if t %}k{% endif\n%}",
    "{# multi\n line #}\n{% set a = [\n 1,\n 2,\n] %}{{ a }}{{ {'a': 1,} }}{{ (1,) }}", "\n\n{% if t %}x{% endif %}\n\n", "", "\n", "plain text",
    "{% for i in l %}\n{% if i == 1 %}\n  one\n{% else %}\n  {{ i }}\n{% endif %}\n{% endfor %}\n", "\ta {% if t %}\tb{% endif %}\n\t{% if t %}c\n\t{% endif %}",
    "{{ 'a\\\nb' }}",
]
