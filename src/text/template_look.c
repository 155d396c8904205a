/* What a template does with content, as its syntax tree shows it.
 *
 * A template that knows content of parts goes through them: {% for part in message.content %}, or over
 * a variable that is called content. Others print it, and would print a list as Python does. */
#include "text/template_parts.h"

static bool is_content(const char *text, size_t n)
{
    return n == 7 && memcmp(text, "content", 7) == 0;
}

/* `content`, `x.content`, `x['content']`, with or without filters. */
static bool yields_content(const struct tpl_node *node)
{
    while (node != NULL && node->type == TPL_N_FILTER)
        node = node->a;
    if (node == NULL)
        return false;
    if (node->type == TPL_N_NAME || node->type == TPL_N_ATTR)
        return is_content(node->name->text, node->name->n);
    return node->type == TPL_N_ITEM && node->b->type == TPL_N_CONST &&
           node->b->value.kind == TPL_STRING && is_content(node->b->value.text, node->b->value.n);
}

static bool takes_parts(const struct tpl_node *node, uint32_t depth)
{
    if (depth == 0) /* deeper than anything that can be rendered */
        return false;
    for (; node != NULL; node = node->next) {
        if (node->type == TPL_N_FOR && yields_content(node->b))
            return true;
        const struct tpl_node *const parts[] = {node->a, node->b, node->c, node->d, node->e};
        for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
            if (parts[i] != NULL && takes_parts(parts[i], depth - 1))
                return true;
    }
    return false;
}

bool tpl_takes_parts(const struct tpl_source *source)
{
    return takes_parts(source->body, TPL_DEPTH_MAX);
}
