/* Scores of a SavedModel through TensorFlow's C API, whose loader TensorFlow Serving uses.
 *
 *   load_saved_model FOLDER CLIPS SAMPLES CLASSES < clips.f32 > scores.f32
 */
#include <stdio.h>
#include <stdlib.h>
#include <tensorflow/c/c_api.h>

static void require(TF_Status *status, const char *what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

static TF_Output output(TF_Graph *graph, const char *name) {
  TF_Output found = {TF_GraphOperationByName(graph, name), 0};
  if (found.oper == NULL) {
    fprintf(stderr, "no operation %s\n", name);
    exit(1);
  }
  return found;
}

int main(int argc, char **argv) {
  if (argc != 7) {
    fprintf(stderr, "usage: load_saved_model FOLDER INPUT OUTPUT CLIPS SAMPLES CLASSES\n");
    return 2;
  }
  int64_t shape[2] = {atoll(argv[4]), atoll(argv[5])};
  size_t scores = (size_t)shape[0] * (size_t)atoll(argv[6]);
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  require(status, "load");

  size_t size = (size_t)(shape[0] * shape[1]) * sizeof(float);
  TF_Tensor *waveform = TF_AllocateTensor(TF_FLOAT, shape, 2, size);
  if (fread(TF_TensorData(waveform), 1, size, stdin) != size) {
    fprintf(stderr, "too few samples\n");
    return 1;
  }
  TF_Output input = output(graph, argv[2]), answer = output(graph, argv[3]);
  TF_Tensor *result = NULL;
  TF_SessionRun(session, NULL, &input, &waveform, 1, &answer, &result, 1, NULL, 0, NULL, status);
  require(status, "run");
  if (TF_TensorByteSize(result) != scores * sizeof(float)) {
    fprintf(stderr, "expected %zu scores, got %zu bytes\n", scores, TF_TensorByteSize(result));
    return 1;
  }
  fwrite(TF_TensorData(result), sizeof(float), scores, stdout);
  return 0;
}
