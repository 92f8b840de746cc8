/* fal._packets: what is made of packets one at a time for Python, made here for a batch at a time.
 * SPDX-License-Identifier: BSD-3-Clause */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "layout.h"

#define AHEAD 8 /* packets whose first bytes are fetched before they are copied */

/* A copy of the packet whose `pieces` begin with d; NULL and an exception: no memory, or one lies
 * outside of the frames. */
static PyObject *copied(const struct fal_desc *d, Py_ssize_t pieces, const Py_buffer *frames,
                        size_t most) {
    size_t size = 0;
    for (Py_ssize_t i = 0; i < pieces; i++) {
        if (d[i].offset > (size_t)frames->len || d[i].caplen > (size_t)frames->len - d[i].offset)
            return PyErr_Format(PyExc_ValueError, "a packet lies outside of the frames");
        size += d[i].caplen;
    }
    size = size < most ? size : most;
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    char *to = made ? PyBytes_AS_STRING(made) : NULL;
    for (; made && size; d++) {
        size_t n = d->caplen < size ? d->caplen : size;
        memcpy(to, (const char *)frames->buf + d->offset, n);
        to += n;
        size -= n;
    }
    return made;
}

static int append(PyObject *list, PyObject *item) {
    int result = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return result;
}

static int copy_all(const struct fal_desc *d, Py_ssize_t n, const Py_buffer *frames, size_t most,
                    PyObject *times, PyObject *packets) {
    for (Py_ssize_t i = 0, pieces; i < n; i += pieces) {
        if (i + AHEAD < n)
            __builtin_prefetch((const char *)frames->buf + d[i + AHEAD].offset);
        for (pieces = 1; d[i + pieces - 1].flags & FAL_DESC_MORE && i + pieces < n; pieces++)
            ;
        if (append(times, PyFloat_FromDouble((double)d[i].ts_ns * 1e-9)) < 0 ||
            append(packets, copied(d + i, pieces, frames, most)) < 0)
            return -1;
    }
    return 0;
}

static PyObject *copies(PyObject *self, PyObject *args) {
    Py_buffer descriptors, frames;
    unsigned int snaplen;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*I", &descriptors, &frames, &snaplen))
        return NULL;
    PyObject *times = PyList_New(0), *packets = PyList_New(0), *both = NULL;
    /* Of our own: those in a ring could change between the check and the use. */
    PyObject *own = PyBytes_FromStringAndSize(descriptors.buf, descriptors.len);
    const struct fal_desc *d = own ? (const void *)PyBytes_AS_STRING(own) : NULL;
    Py_ssize_t n = descriptors.len / (Py_ssize_t)sizeof *d;
    if (times && packets && own && copy_all(d, n, &frames, snaplen, times, packets) == 0)
        both = PyTuple_Pack(2, times, packets);
    Py_XDECREF(own);
    Py_XDECREF(times);
    Py_XDECREF(packets);
    PyBuffer_Release(&descriptors);
    PyBuffer_Release(&frames);
    return both;
}

static PyMethodDef methods[] = {
    {"copies", copies, METH_VARARGS,
     "copies(descriptors, frames, snaplen) -> (times, packets)\n\n"
     "Of each packet its time, in seconds since 1970 UTC, and its bytes, at most snaplen; pieces\n"
     "are joined.  descriptors: buffer of struct fal_desc, packets whole; frames: buffer."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "fal._packets", .m_size = 0,
                                    .m_methods = methods};

PyMODINIT_FUNC PyInit__packets(void); /* -Wmissing-prototypes */

PyMODINIT_FUNC PyInit__packets(void) {
    return PyModuleDef_Init(&module);
}
