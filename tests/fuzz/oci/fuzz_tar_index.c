/* The tar around an image. */
#include "base/file.h"
#include "oci/tar_index.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_closep) int fd = memfd_create("tar", MFD_CLOEXEC);
	CLEANUP(lm_tar_index_freep) struct lm_tar_index *index = NULL;
	struct lm_tar_place place;
	if (fd < 0 || lm_write_all(fd, data, size, NULL) < 0 || lm_tar_index_read(fd, &index, NULL) < 0)
		return 0;
	static const char *const names[] = {"manifest.json", "a/../manifest.json", "link", "", "/", ".."};
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (lm_tar_index_find(index, names[i], &place, NULL) == 0 &&
			(place.offset > size || place.size > size - place.offset))
			abort();
	return 0;
}
