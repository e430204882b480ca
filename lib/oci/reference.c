#include "oci/reference.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>

enum { TEXT_MAX = 4096, REPOSITORY_MAX = 255, TAG_MAX = 128, OCI_TAG_MAX = 512 };

#define DIGEST_PREFIX "sha256:"

/* A piece of the text that is parsed. */
struct span {
	const char *at;
	size_t len;
};

static bool is_lower_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_alnum(char c)
{
	return is_lower_alnum(c) || (c >= 'A' && c <= 'Z');
}

static bool digest_valid(struct span s)
{
	const size_t prefix = strlen(DIGEST_PREFIX);
	if (s.len != prefix + 64 || memcmp(s.at, DIGEST_PREFIX, prefix) != 0)
		return false;
	for (size_t i = prefix; i < s.len; i++)
		if (!(s.at[i] >= '0' && s.at[i] <= '9') && !(s.at[i] >= 'a' && s.at[i] <= 'f'))
			return false;
	return true;
}

bool lm_digest_valid(const char *digest)
{
	return digest_valid((struct span){digest, strlen(digest)});
}

bool lm_host_is_loopback(const char *host)
{
	char name[64];
	struct in_addr v4;
	if (strcmp(host, "[::1]") == 0 || lm_str_starts(host, "[::1]:"))
		return true;
	size_t len = strcspn(host, ":");
	if (len >= sizeof(name))
		return false;
	memcpy(name, host, len);
	name[len] = '\0';
	return strcasecmp(name, "localhost") == 0 ||
	       (inet_pton(AF_INET, name, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127);
}

void lm_reference_done(struct lm_reference *reference)
{
	free(reference->registry);
	free(reference->repository);
	free(reference->path);
	free(reference->tag);
	free(reference->digest);
	free(reference->index);
	*reference = (struct lm_reference){0};
}

static int copy(struct span s, char **ret, struct lm_err *err)
{
	char *text = lm_str_ndup(s.at, s.len);
	if (!text)
		return lm_err_oom(err);
	*ret = text;
	return 0;
}

static int refuse(struct lm_err *err, struct span s, const char *why)
{
	return lm_err_set(err, -EINVAL, "\"%.*s\" %s", (int)s.len, s.at, why);
}

/* Cuts s at the first (or last) c: what stands after it goes to *ret_after. False, and s as it was, without one. */
static bool cut(struct span *s, char c, bool last, struct span *ret_after)
{
	const char *at = last ? memrchr(s->at, c, s->len) : memchr(s->at, c, s->len);
	if (!at)
		return false;
	*ret_after = (struct span){at + 1, (size_t)(s->at + s->len - at) - 1};
	s->len = (size_t)(at - s->at);
	return true;
}

/* Letters and digits, joined by one dot, one or two underscores, or any number of dashes. */
static bool component_valid(struct span s)
{
	size_t i = 0;
	for (;;) {
		size_t start = i;
		while (i < s.len && is_lower_alnum(s.at[i]))
			i++;
		if (i == start)
			return false;
		if (i == s.len)
			return true;
		start = i;
		while (i < s.len && s.at[i] == s.at[start] && strchr("._-", s.at[i]))
			i++;
		if (i == start || (s.at[start] == '.' && i - start > 1) || (s.at[start] == '_' && i - start > 2))
			return false;
	}
}

static int check_repository(struct span name, struct lm_err *err)
{
	if (name.len > REPOSITORY_MAX)
		return refuse(err, name, "is too long for the name of an image");
	struct span rest = name, after;
	for (bool more = true; more; rest = after) {
		more = cut(&rest, '/', false, &after);
		if (!component_valid(rest))
			return refuse(err, name,
				"is no name of an image: lower-case letters and digits are wanted, joined by "
				"dots, dashes or underscores, in parts divided by slashes");
	}
	return 0;
}

static bool is_tag_char(char c, bool first)
{
	return is_alnum(c) || c == '_' || (!first && (c == '.' || c == '-'));
}

static int check_tag(struct span tag, struct lm_err *err)
{
	for (size_t i = 0; i < tag.len; i++)
		if (!is_tag_char(tag.at[i], i == 0))
			return refuse(err, tag, "is no tag: letters, digits, _ . and - are wanted");
	if (tag.len == 0 || tag.len > TAG_MAX)
		return lm_err_set(err, -EINVAL, "a tag has 1 to %d characters", TAG_MAX);
	return 0;
}

/* [IPv6], or labels of letters, digits and dashes; then an optional :PORT. */
static bool host_valid(struct span host)
{
	struct span port;
	uint64_t number;
	bool bracket = host.len > 0 && host.at[0] == '[';
	if (bracket) {
		struct span after;
		struct span address = {host.at + 1, host.len - 1};
		if (!cut(&address, ']', false, &after) || address.len == 0 || (after.len > 0 && after.at[0] != ':'))
			return false;
		for (size_t i = 0; i < address.len; i++)
			if (!isxdigit((unsigned char)address.at[i]) && address.at[i] != ':' && address.at[i] != '.')
				return false;
		if (after.len == 0)
			return true;
		port = (struct span){after.at + 1, after.len - 1};
		return lm_str_u64(port.at, port.len, &number) == 0 && number > 0 && number < 65536;
	}
	if (cut(&host, ':', false, &port) &&
		(lm_str_u64(port.at, port.len, &number) < 0 || number == 0 || number > 65535))
		return false;
	struct span rest = host, after = {0};
	for (bool more = true; more; rest = after) {
		more = cut(&rest, '.', false, &after);
		if (rest.len == 0 || rest.at[0] == '-' || rest.at[rest.len - 1] == '-')
			return false;
		for (size_t i = 0; i < rest.len; i++)
			if (!is_alnum(rest.at[i]) && rest.at[i] != '-')
				return false;
	}
	return true;
}

bool lm_registry_valid(const char *text)
{
	return host_valid((struct span){text, strlen(text)});
}

bool lm_repository_valid(const char *text)
{
	return check_repository((struct span){text, strlen(text)}, NULL) == 0;
}

bool lm_tag_valid(const char *text)
{
	return check_tag((struct span){text, strlen(text)}, NULL) == 0;
}

/* The part before the first slash is a host if it could be no part of a name: docker's rule. */
static bool names_host(struct span first)
{
	return memchr(first.at, '.', first.len) || memchr(first.at, ':', first.len) ||
	       (first.len == strlen("localhost") && memcmp(first.at, "localhost", first.len) == 0);
}

static int set_registry(struct span *name, struct lm_reference *ref, struct lm_err *err)
{
	struct span first = *name, after;
	bool slash = cut(&first, '/', false, &after);
	bool hub = !slash || !names_host(first);
	if (hub) {
		first = (struct span){"docker.io", strlen("docker.io")};
	} else {
		if (!host_valid(first))
			return refuse(err, first, "is no HOST[:PORT]");
		*name = after;
	}
	int r = copy(first, &ref->registry, err);
	if (r < 0)
		return r;
	bool official = strcmp(ref->registry, "docker.io") == 0 && !memchr(name->at, '/', name->len);
	r = check_repository(*name, err);
	if (r < 0)
		return r;
	ref->repository = lm_str_printf("%s%.*s", official ? "library/" : "", (int)name->len, name->at);
	return ref->repository ? 0 : lm_err_oom(err);
}

/* HOST[:PORT]/NAME[:TAG][@DIGEST] */
static int parse_docker(struct span name, struct lm_reference *ref, struct lm_err *err)
{
	struct span tag, digest;
	int r = 0;
	if (cut(&name, '@', false, &digest)) {
		if (!digest_valid(digest))
			return refuse(err, digest, "is no digest: sha256: and 64 lower-case digits are wanted");
		r = copy(digest, &ref->digest, err);
	}
	/* A colon before the last slash belongs to a port. */
	const char *slash = memrchr(name.at, '/', name.len);
	struct span last = slash ? (struct span){slash, (size_t)(name.at + name.len - slash)} : name;
	if (r == 0 && cut(&last, ':', false, &tag)) {
		name.len = (size_t)(last.at + last.len - name.at);
		r = check_tag(tag, err);
		if (r == 0)
			r = copy(tag, &ref->tag, err);
	} else if (r == 0 && !ref->digest) {
		r = copy((struct span){"latest", strlen("latest")}, &ref->tag, err);
	}
	return r < 0 ? r : set_registry(&name, ref, err);
}

/* DIR[:TAG]; as with skopeo the first colon divides, and the tag may be any reference name of a layout. */
static int parse_oci(struct span path, struct lm_reference *ref, struct lm_err *err)
{
	struct span tag;
	int r = 0;
	if (cut(&path, ':', false, &tag)) {
		if (tag.len == 0 || tag.len > OCI_TAG_MAX)
			return lm_err_set(err, -EINVAL, "the tag of a layout has 1 to %d characters", OCI_TAG_MAX);
		r = copy(tag, &ref->tag, err);
	}
	if (r == 0 && path.len == 0)
		return lm_err_set(err, -EINVAL, "the path is missing");
	return r < 0 ? r : copy(path, &ref->path, err);
}

/* FILE[:NAME[:TAG]] or FILE[:@INDEX]; the first colon divides. */
static int parse_docker_archive(struct span path, struct lm_reference *ref, struct lm_err *err)
{
	struct span name;
	uint64_t number;
	int r = 0;
	if (cut(&path, ':', false, &name)) {
		if (name.len > 0 && name.at[0] == '@') {
			struct span digits = {name.at + 1, name.len - 1};
			if (lm_str_u64(digits.at, digits.len, &number) < 0)
				return refuse(err, digits, "is no number of an image");
			r = copy(digits, &ref->index, err);
		} else {
			r = parse_docker(name, ref, err);
		}
	}
	if (r == 0 && ref->digest)
		return lm_err_set(err, -EINVAL, "images of such an archive are named by tag or number, not by digest");
	if (r == 0 && path.len == 0)
		return lm_err_set(err, -EINVAL, "the file is missing");
	return r < 0 ? r : copy(path, &ref->path, err);
}

static bool printable(const char *text)
{
	for (const unsigned char *c = (const unsigned char *)text; *c; c++)
		if (*c < ' ' || *c == 0x7f)
			return false;
	return true;
}

static const struct {
	const char *prefix;
	enum lm_transport transport;
	int (*parse)(struct span rest, struct lm_reference *ref, struct lm_err *err);
} transports[] = {
	{"docker://", LM_TRANSPORT_DOCKER, parse_docker},
	{"oci:", LM_TRANSPORT_OCI, parse_oci},
	{"oci-archive:", LM_TRANSPORT_OCI_ARCHIVE, parse_oci},
	{"docker-archive:", LM_TRANSPORT_DOCKER_ARCHIVE, parse_docker_archive},
};

int lm_reference_parse(const char *text, struct lm_reference *ret, struct lm_err *err)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	size_t len = strnlen(text, TEXT_MAX + 1);
	int r;
	if (len > TEXT_MAX || !printable(text))
		return lm_err_set(err, -EINVAL,
			"an image source is at most %d characters, none of them control characters", TEXT_MAX);
	size_t i = 0;
	while (i < ARRAY_LEN(transports) && !lm_str_starts(text, transports[i].prefix))
		i++;
	if (i == ARRAY_LEN(transports))
		return lm_err_set(err, -EINVAL,
			"\"%s\" is no image source: docker://HOST/NAME[:TAG][@DIGEST], oci:DIR[:TAG], "
			"oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME[:TAG]|:@INDEX] is wanted",
			text);
	size_t prefix = strlen(transports[i].prefix);
	ref.transport = transports[i].transport;
	r = transports[i].parse((struct span){text + prefix, len - prefix}, &ref, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", text);
	*ret = ref;
	ref = (struct lm_reference){0};
	return 0;
}
